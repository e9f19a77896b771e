"""Every fenced block of the pages runs, is checked, or says why not.

    python    executed, in one namespace for each page and in a folder of its own
    python    after `<!-- config -->`: read by mmengine; its types exist and take these arguments
    bash      scripts, targets, configs and options exist, and argparse accepts the command line
    text      formulas, listings and output: nothing to run; latex is for citations

`<!-- not run: reason -->` and `<!-- run by tests/... -->` before a block exempt it.
"""

from __future__ import annotations

import argparse
import inspect
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from ebm_mmdet.commands import parser as command_parser

REPO = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "ops/*.md", "docs/**/*.md", "configs/**/*.md")
    for page in REPO.glob(pattern)
)


@dataclass(frozen=True)
class Block:
    """A fenced block, and the comment on the line before it."""

    page: Path
    line: int
    language: str
    text: str
    remark: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(REPO)}:{self.line}"

    @property
    def exempt(self) -> bool:
        return self.remark.startswith(("not run", "run by"))


def blocks_of(page: Path) -> Iterator[Block]:
    fence, text, language, remark, start = "", [], "", "", 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        opening = re.match(r"(\s*)(`{3,})(\S*)", line)
        if fence:
            if line.strip() == fence:
                indent = min((len(x) - len(x.lstrip()) for x in text if x.strip()), default=0)
                yield Block(page, start, language, "\n".join(x[indent:] for x in text), remark)
                fence, remark = "", ""
            else:
                text.append(line)
        elif opening:
            fence, language, text, start = opening[2], opening[3], [], number
        elif line.strip():
            comment = re.fullmatch(r"<!-- (.*) -->", line.strip())
            remark = comment[1] if comment else ""


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def named(blocks: list[Block]) -> list:
    return [pytest.param(block, id=block.place) for block in blocks]


def page_params(pages) -> list:
    return [pytest.param(page, id=str(page.relative_to(REPO))) for page in pages]


def test_the_pages_have_blocks():
    kinds = {block.language for block in BLOCKS}
    assert {"python", "bash", "text"} <= kinds
    assert len(BLOCKS) > 40


@pytest.mark.parametrize("block", named(BLOCKS))
def test_block_is_of_a_kind_that_is_checked(block):
    directive = block.language.startswith("{")
    assert directive or block.language in ("python", "bash", "text", "latex"), (
        f"{block.place}: a block of language {block.language!r}; use python, bash or text"
    )
    if block.remark.startswith("not run"):
        assert re.match(r"not run: .{4}", block.remark), f"{block.place}: not run, and no reason"
    if block.remark.startswith("run by"):
        test = REPO / block.remark.removeprefix("run by").strip()
        assert test.is_file(), f"{block.place}: there is no {test}"
        assert block.page.name in test.read_text(), f"{test} does not read {block.page.name}"


@pytest.mark.parametrize("page", page_params(PAGES))
def test_code_is_fenced(page):
    """An indented block would not be checked."""
    in_fence = in_list = False
    previous = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_fence = not in_fence
        elif not in_fence:
            if re.match(r"\s*([-*]|\d+\.) ", line):
                in_list = True
            elif line and not line.startswith(" "):
                in_list = False
            indented = line.startswith("    ") and not previous.strip() and not in_list
            assert not indented, f"{page.relative_to(REPO)}:{number}: use a fence"
        previous = line


# --- python -----------------------------------------------------------------------------------


PYTHON = [b for b in BLOCKS if b.language == "python" and not b.exempt]
CONFIGS = [b for b in PYTHON if b.remark.startswith("config")]
SCRIPTS = [b for b in PYTHON if b not in CONFIGS]


@pytest.mark.parametrize("page", page_params(sorted({block.page for block in SCRIPTS})))
def test_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    namespace: dict[str, Any] = {"__name__": "__page__"}
    for block in SCRIPTS:
        if block.page == page:
            source = "\n" * block.line + block.text  # tracebacks name the line of the page
            exec(compile(source, str(page), "exec", dont_inherit=True), namespace)


# --- configs ----------------------------------------------------------------------------------


def user_detector(block: Block) -> str:
    """What './my_detector.py' is on a page."""
    if "EBM3DDetector" in block.text:
        return "_base_ = 'mmdet3d::second/second_hv_secfpn_8xb6-80e_kitti-3d-car.py'\n"
    return "_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'\n"


def registered(name: str) -> type | None:
    """The class that a config calls `name`."""
    import mmdet.registry
    from mmengine.registry import Registry

    modules = [mmdet.registry]
    try:
        import mmdet3d.registry

        import ebm_mmdet3d  # noqa: F401

        modules.append(mmdet3d.registry)
    except ImportError:
        pass
    for module in modules:
        for registry in vars(module).values():
            if isinstance(registry, Registry) and (found := registry.get(name)) is not None:
                return found
    return None


def typed_dicts(value: Any) -> Iterator[dict]:
    """Every dict with a type in it, but for the detector, which is mmdet's own."""
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value
        value = [part for key, part in value.items() if key != "detector"]
    if isinstance(value, list | tuple):
        for part in value:
            yield from typed_dicts(part)


@pytest.mark.parametrize("block", named(CONFIGS))
def test_config_means_something(block, tmp_path):
    from mmengine.config import Config

    import ebm_mmdet  # noqa: F401

    if "3D" in block.text or "Kitti" in block.text:
        pytest.importorskip("mmdet3d", reason="the block needs mmdet3d")
    (tmp_path / "my_detector.py").write_text(user_detector(block))
    (tmp_path / "block.py").write_text(block.text)
    cfg = Config.fromfile(tmp_path / "block.py")
    stated = [name for name in re.findall(r"^(\w+) *=", block.text, flags=re.M) if name in cfg]
    assert stated, f"{block.place}: nothing is left of it"
    for part in typed_dicts({name: cfg.to_dict()[name] for name in stated}):
        name = part["type"].rpartition(".")[2]
        found = registered(name)
        assert found is not None, f"{block.place}: no registry knows {name}"
        taken = arguments(found)
        unknown = set() if taken is None else set(part) - taken - {"type", "_delete_", "_scope_"}
        assert not unknown, f"{block.place}: {name} takes no {sorted(unknown)}"


def arguments(cls: type) -> set[str] | None:
    """Names of the arguments of a class; None: anything (it passes **kwargs to something else)."""
    names: set[str] = set()
    for owner in cls.__mro__ if inspect.isclass(cls) else ():
        if "__init__" not in vars(owner):
            continue
        parameters = inspect.signature(owner.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names
    return None


@pytest.mark.parametrize(
    "block", named([b for b in CONFIGS if "type='EBMDetector'" in b.text and "_base_" in b.text])
)
def test_config_builds_a_model(block, tmp_path):
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    import ebm_mmdet  # noqa: F401

    (tmp_path / "my_detector.py").write_text(user_detector(block))
    (tmp_path / "block.py").write_text(block.text)
    cfg = Config.fromfile(tmp_path / "block.py")
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
    assert type(model).__name__ == "EBMDetector"


# --- bash -------------------------------------------------------------------------------------


SHELL = [block for block in BLOCKS if block.language == "bash" and not block.exempt]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every simple command of a block."""
    text = re.sub(r"\\\n\s*", " ", text)
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        command: list[str] = []
        for word in [*words, ";"]:
            end = word in (";", "&&", "do", "done") or word.endswith(";")
            if end and word.endswith(";") and word != ";":
                command.append(word[:-1])
            if not end:
                command.append(word)
            elif command:
                yield command
                command = []


@cache
def parser_of(script: Path) -> argparse.ArgumentParser:
    """The parser that a script builds, captured when the script parses its arguments."""

    class Built(BaseException):
        pass

    def stop(self, *_, **__):
        raise Built(self)

    with (
        patch.object(argparse.ArgumentParser, "parse_args", stop),
        patch.object(sys, "argv", [str(script)]),
        patch.object(sys, "path", [str(script.parent), *sys.path]),
    ):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except Built as built:
            return built.args[0]
    raise AssertionError(f"{script} parses no arguments")


def check_script(script: Path, arguments: list[str]) -> None:
    assert script.is_file(), f"there is no {script}"
    if "3d" in script.name or "kitti" in script.name:
        pytest.importorskip("mmdet3d", reason="the script needs mmdet3d")
    parser = parser_of(script)
    try:
        parser.parse_args(arguments)
    except SystemExit:
        pytest.fail(f"{script.name} does not take {arguments}")


def check_make(words: list[str]) -> None:
    makefile = (REPO / "Makefile").read_text()
    for word in words:
        name, assigned, _ = word.partition("=")
        if assigned:
            assert f"$({name})" in makefile, f"the Makefile has no {name}"
    done = subprocess.run(
        ["make", "-n", *words], cwd=REPO, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def check_pip(words: list[str]) -> None:
    for word in words:
        path, _, extras = word.partition("[")
        if path.startswith("."):
            assert (REPO / path).is_dir(), f"there is no {path} to install"
            for extra in filter(None, extras.rstrip("]").split(",")):
                assert (REPO / "requirements" / f"{extra}.txt").is_file(), f"no extra {extra}"


def check_command(words: list[str]) -> None:
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    if ">" in words:
        words = words[: words.index(">")]
    name, rest = words[0], words[1:]
    for word in rest:
        if word.startswith("configs/"):
            for path in expanded(word):
                assert list(REPO.glob(path)), f"there is no {path}"
    rest = [path for word in rest for path in expanded(word)]
    if name == "make":
        check_make(rest)
    elif name == "pip":
        check_pip(rest)
    elif name in ("python", "python3") and rest[0] == "-m":
        assert rest[1] in ("ebm_mmdet", "pytest"), f"no check for python -m {rest[1]}"
        if rest[1] == "ebm_mmdet":
            command_parser().parse_args(rest[2:])
            return
        for path in rest[2:]:
            assert path.startswith("-") or (REPO / path).exists(), f"there is no {path}"
    elif name in ("python", "python3"):
        check_script(REPO / rest[0], rest[1:])
    elif name.endswith(".sh"):
        assert (REPO / name).stat().st_mode & 0o100, f"{name} cannot be executed"
        kind = "test" if "test" in name else "train"
        number = 1 if kind == "train" else 2  # CONFIG [CHECKPOINT] GPUS ...
        processes = rest[number] if len(rest) > number else ""
        assert processes.isdigit(), f"{name} wants a number of processes after {rest[:number]}"
        check_script(REPO / "tools" / f"{kind}.py", rest[:number] + rest[number + 1 :])
    else:
        assert name in ("export", "for"), f"no check for {name!r}; fix it or say why it is not run"


def expanded(word: str) -> list[str]:
    """`a_{b,c}` -> `a_b`, `a_c`."""
    found = re.search(r"\{([^{}]*,[^{}]*)\}", word)
    if not found:
        return [word]
    return [word[: found.start()] + part + word[found.end() :] for part in found[1].split(",")]


@pytest.mark.parametrize("block", named(SHELL))
def test_commands_exist(block):
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = list(commands(block.text))
    assert found, f"{block.place}: no command"
    for words in found:
        check_command(words)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python tools/no_such_tool.py", "there is no"),
        ("python tools/train.py configs/ebm/no_such_config.py", "there is no configs"),
        ("python tools/train.py my_config.py --no-such-option", "does not take"),
        ("tools/dist_train.sh my_config.py", "wants a number of processes"),
        ("make no_such_target", "No rule to make target"),
        ("make demo NO_SUCH=1", "the Makefile has no NO_SUCH"),
        ('pip install ".[no_such_extra]"', "no extra no_such_extra"),
        ("curl example.org", "no check for"),
    ],
)
def test_what_does_not_exist_is_noticed(command, message):
    (words,) = commands(command)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=message):
        check_command(words)


def test_an_unknown_argument_of_a_config_is_noticed(tmp_path):
    text = "refiner = dict(type='GradientAscentRefiner', no_such=1)"
    block = Block(REPO / "README.md", 1, "python", text, "config")
    with pytest.raises(AssertionError, match="no_such"):
        test_config_means_something(block, tmp_path)
