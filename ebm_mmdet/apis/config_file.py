"""Write a config file that inherits from a user's and puts some settings over it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.hub import get_config

from ..files import write_new_text
from .config_text import render

__all__ = ["Changes", "refuse_existing", "write_over"]

Changes = tuple[str, list[str], Mapping]
"""Name of the detector, lines before the settings, and the settings."""

_HEADER = '''"""{detector} with an energy head, written by ebm-mmdet; every number may be changed.

    python tools/train.py {out}
"""

_base_ = {base}

custom_imports = dict(imports={imports}, allow_failed_imports=False)

'''


def write_over(
    config: str | os.PathLike,
    out: str | os.PathLike | None,
    packages: Sequence[str],
    changes: Callable[[Config], Changes],
) -> Path:
    """Write the settings that ``changes`` makes for a config, inheriting from it, as a file.

    Args:
        config: the detector's config file, or the name of a packaged one, ``mmdet::...``.
        out: the file to write; by default ``NAME_ebm.py`` beside a config ``NAME.py``, and in the
            current folder for a packaged one.
        packages: what the file imports, besides what the user's imports.
        changes: makes the settings; it may raise what it likes, and nothing is written then.

    Returns:
        The path of the file.

    Raises:
        FileExistsError: the file exists; it is never overwritten.
        FileNotFoundError: there is no such config.
        ValueError: the config is in mmengine's new style (Python imports), which a text config
            cannot inherit from.
    """
    config = os.fspath(config)
    packaged = "::" in config
    stem = Path(config.rpartition("::")[2]).stem
    folder = Path() if packaged else Path(config).parent
    out = Path(out) if out is not None else folder / f"{stem}_ebm.py"
    refuse_existing(out)
    cfg = get_config(config) if packaged else Config.fromfile(config)
    if not packaged and Config._is_lazy_import(config):
        raise ValueError(
            f"{config} is a config in mmengine's new style (Python imports), which the written "
            "file could not inherit from; write it in mmengine's text style, with _base_ and "
            "type='NAME'"
        )
    detector, prelude, settings = changes(cfg)
    base = config if packaged else _base_path(config, out.parent)
    theirs = (cfg.get("custom_imports") or {}).get("imports") or []
    theirs = [theirs] if isinstance(theirs, str) else list(theirs)
    text = _HEADER.format(
        detector=detector,
        out=shlex.quote(str(out)),
        base=_quoted(base),
        imports=list(dict.fromkeys([*theirs, *packages])),
    )
    text += "\n".join(prelude) + "\n\n" + render(settings)
    write_new_text(out, text)
    return out


def refuse_existing(path: Path) -> None:
    """Raise ``FileExistsError`` if the file exists."""
    if path.exists():
        raise FileExistsError(f"{path} exists and is not overwritten; remove it, or choose another")


def _base_path(config: str, folder: Path) -> str:
    """Path of a config for ``_base_`` of a file in the folder; absolute where a link lies between.

    mmengine follows ``..`` both as text and as the file system does. Through a linked folder (such
    as a ``work_dirs`` on another disk) these lead to different places, and no relative path works.
    """
    if os.path.realpath(folder) != os.path.abspath(folder):
        return os.path.abspath(config)
    return f"./{os.path.relpath(config, folder)}"


def _quoted(text: str) -> str:
    return repr(os.path.normpath(text) if text.startswith("./../") else text)
