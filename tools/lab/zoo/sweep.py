"""Tries families of a model zoo one after the other, each in a process with limits."""

from __future__ import annotations

import multiprocessing
import re
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from mmengine.config import Config
from mmengine.logging import MMLogger

from ebm_mmdet.files import read_json, write_json

from . import substitutes
from .trial import ZOO, try_config

__all__ = ["families", "sweep"]

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in Python takes seconds


def families(zoo: Path = ZOO) -> dict[str, str]:
    """Name of each family, and a config of it: the first of its ``metafile.yml``, or its first file.

    Args:
        zoo: folder with one folder for each family.
    """  # noqa: E501
    found = {}
    for folder in sorted(zoo.iterdir()):
        configs = sorted(each.name for each in folder.glob("*.py") if each.name != "__init__.py")
        if folder.name in ("_base_", "common") or not configs:  # parts of other configs
            continue
        metafile = folder / "metafile.yml"
        content = yaml.load(metafile.read_text("utf-8"), LOADER) if metafile.exists() else None
        models = content.get("Models", ()) if isinstance(content, Mapping) else content or ()
        named = [Path(str(each.get("Config", ""))).name for each in models]
        found[folder.name] = next((name for name in named if name in configs), configs[0])
    return found


def _run(name: str, config: Path, out: Path, gigabytes: float) -> None:
    """Try a family, in a process of its own; the result becomes a file."""
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    MMLogger.get_current_instance().setLevel("ERROR")
    result = dict(family=name, config=config.name)
    start = time.monotonic()
    try:
        with substitutes.on_cpu() as used:
            result.update(result="works", **try_config(Config.fromfile(config)))
        result["remarks"] += [f"{each} in plain PyTorch" for each in sorted(used)]
        if not result["boxes"]:
            result["reason"] = "random weights give no box"
    except Exception as error:
        refused = isinstance(error, ValueError) and _raised_by_us(error)
        full = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        reason = f"needs more than {gigabytes:g} GB" if full else _reason(error)
        result.update(result="refused" if refused else "fails", reason=reason)
        result["trace"] = traceback.format_exc()
    result["seconds"] = round(time.monotonic() - start, 1)
    write_json(out, result)


def _raised_by_us(error: BaseException) -> bool:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "ebm_mmdet" in Path(last.filename).parts


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = re.sub(r"(?<![\w.])(/[^/\s]+)+/", "", text)  # no paths of a machine
    return f"{type(error).__name__}: {text[:200]}"


def sweep(
    chosen: Sequence[str],
    out: Path,
    minutes: float,
    gigabytes: float,
    zoo: Path = ZOO,
    say: Callable[[str], None] = print,
) -> Iterator[dict]:
    """Try families that have no file in ``out`` yet, one process after the other.

    Args:
        chosen: names of families.
        out: folder of the results, ``FAMILY.json`` each.
        minutes: time for each family.
        gigabytes: address space for each family.
        zoo: folder with one folder for each family.
        say: receives a line per family.

    Yields:
        The result of each family, also of those that have a file.
    """
    known = families(zoo)
    fork = multiprocessing.get_context("fork")  # the imports are made once
    for name in chosen:
        file = out / f"{name}.json"
        result = read_json(file)
        if result is None:
            config = zoo / name / known[name]
            process = fork.Process(target=_run, args=(name, config, file, gigabytes))
            process.start()
            process.join(60 * minutes)
            if process.is_alive():
                process.kill()
                process.join()
                write_json(file, _ended(name, config, f"takes more than {minutes:g} min"))
            elif not file.exists():
                reason = f"the process ended with code {process.exitcode}"
                write_json(file, _ended(name, config, reason))
            result = read_json(file)
            say(f"{name:24} {result['result']:8} {result.get('reason', '')[:120]}")
        yield result


def _ended(name: str, config: Path, reason: str) -> dict:
    return dict(family=name, config=config.name, result="fails", reason=reason)
