"""The folder of a fit: it belongs to one detector and one set of settings."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config

from ...files import differing_keys, file_digest, read_json, write_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = [
    "SETTINGS",
    "check_folder",
    "claim_folder",
    "describe_inputs",
    "held",
    "writable_place",
]

SETTINGS = "settings.json"


def describe_inputs(cfg: Config, checkpoint: Path, settings: dict) -> dict:
    """What makes the results of a fit its own: config, checkpoint and settings.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"there is no checkpoint {checkpoint}")
    config = hashlib.sha256(cfg.pretty_text.encode()).hexdigest()
    return dict(config=config, checkpoint=file_digest(checkpoint), **settings)


def claim_folder(
    folder: Path,
    wanted: dict,
    what: str = "fit",
    option: str = "--out-dir",
    free: Collection[str] = (),
) -> bool:
    """Make the folder of a fit, or check that it is that of the same one.

    Args:
        folder: the folder.
        wanted: of :func:`describe_inputs`.
        what: name of what is done in it, for messages.
        option: name of the option that gives the folder, for messages.
        free: settings that may be others than those of the earlier call, whose values stay in the
            folder.

    Returns:
        Whether an earlier call has begun in it.

    Raises:
        FileExistsError: see :func:`check_folder`.
    """
    begun = check_folder(folder, wanted, what, option, free)
    if not begun:
        write_json(folder / SETTINGS, wanted)
    return begun


def check_folder(
    folder: Path,
    wanted: dict,
    what: str = "fit",
    option: str = "--out-dir",
    free: Collection[str] = (),
) -> bool:
    """Check that a folder is empty, absent, or that of the same fit; nothing is written.

    Arguments are those of :func:`claim_folder`.

    Returns:
        Whether an earlier call has begun in it.

    Raises:
        FileExistsError: the folder has other content, a fit with other settings, or one that is
            running.
        PermissionError: it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give another {option}")
    writable_place(folder, option)
    stored = read_json(folder / SETTINGS)
    if stored is None:
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(
                f"{folder} has something else in it; give a new {option}, or empty this one"
            )
        return False
    changed = [key for key in differing_keys(stored, wanted) if key not in free]
    if changed:
        raise FileExistsError(
            f"{folder} has {_a(what)} with another {', '.join(changed)}; give a new {option}, or "
            "remove this one"
        )
    with held(folder, option):  # said now rather than after the data has been read
        pass
    return True


def writable_place(path: Path, option: str = "--out-dir") -> None:
    """Check that a file or folder can be made; to be called before the work that fills it.

    Raises:
        NotADirectoryError: it is to be inside a file.
        PermissionError: the folder that it is to be in cannot be written.
    """
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file; give another {option} than {path}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{there} cannot be written; give another {option} than {path}")


@contextmanager
def held(folder: Path, option: str = "--out-dir") -> Iterator[None]:
    """Keep an existing folder for this process; the system lets go of it when the process dies.

    Where the file system has no locks (some network disks, Windows) nothing is kept.

    Args:
        folder: the folder.
        option: name of the option that gives the folder, for messages.

    Raises:
        FileExistsError: another process works in the folder.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(
                f"another process works in {folder}; wait until it has ended, or give another "
                f"{option}"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
