"""The pages are all in the index, their links lead somewhere, and Sphinx builds them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
DOCS = REPO / "docs"
# GitHub shows these without Sphinx, which checks the links of the others.
OUTSIDE = [REPO / "README.md", REPO / "CHANGELOG.md", REPO / "CONTRIBUTING.md"]
OUTSIDE += [REPO / "ops" / "README.md", *(REPO / "configs").rglob("README.md")]


def listed(page: Path) -> set[str]:
    """What the tables of contents of a page name."""
    trees = re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), flags=re.S)
    return {line for tree in trees for line in tree.split("\n") if line and line[0] != ":"}


def test_the_index_lists_every_page():
    files = [*DOCS.glob("*.md"), *(DOCS / "notebooks").glob("*.ipynb"), DOCS / "api" / "index.md"]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in files} - {"index"}
    assert pages == listed(DOCS / "index.md")
    assert {path.stem for path in (DOCS / "api").glob("*.rst")} == listed(DOCS / "api" / "index.md")


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda page: str(page.relative_to(REPO)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"https?:|mailto:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def named_paths(page: Path) -> set[str]:
    """What looks like a path of the repository in the running text of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    words = {word for span in spans for word in span.split()}
    top = r"(tools|configs|tests|docs|ops|ebm_mmdet|ebm_mmdet3d|requirements)/"
    return {
        word for word in words if re.match(top, word) and not re.search(r"\.\.\.|[<>]|NAME", word)
    }


@pytest.mark.parametrize(
    "page",
    [page for page in [*DOCS.rglob("*.md"), *OUTSIDE] if page.name != "CHANGELOG.md"],
    ids=lambda page: str(page.relative_to(REPO)),
)
def test_paths_exist(page):
    for path in named_paths(page):
        options = re.search(r"\{(.*?)\}", path)
        for option in options[1].split(",") if options else [""]:
            one = path.replace(options[0], option) if options else path
            assert list(REPO.glob(one)), f"{page.name} names {one}, which is not there"


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["nothing", "OpenMMLab"])
def test_sphinx_builds_them(tmp_path, missing):
    """Also where only torch is there: the reference of the torch-only parts needs nothing else."""
    pytest.importorskip("myst_nb", reason="requirements/docs.txt is not installed")
    hidden = ("mmengine", "mmcv", "mmdet", "mmdet3d", "spconv") if missing == "OpenMMLab" else ()
    (tmp_path / "hide.py").write_text(HIDE.format(hidden=hidden))
    done = subprocess.run(
        [sys.executable, tmp_path / "hide.py", "-W", "--keep-going", "-q", DOCS, tmp_path / "html"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert ("EBMDetector" in (tmp_path / "html/api/models.html").read_text()) == (not hidden)
    reference = (tmp_path / "html" / "api" / "energy.html").read_text()
    assert "Climb f from y0" in reference
    assert "Average the bilinear interpolant" in (tmp_path / "html/api/ebm_ops.html").read_text()


# Runs Sphinx in a process that cannot find some packages.
HIDE = """
import importlib.machinery, sys

class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            return None
        return super().find_spec(name, path, target)

sys.meta_path[:] = [
    Hidden if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path
]
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""
