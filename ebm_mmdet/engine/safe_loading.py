"""Reads checkpoints without running their code, and names the types that it refuses."""

from __future__ import annotations

import collections
import datetime
import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader

__all__ = [
    "CheckpointError",
    "allow_training_state",
    "allowed_types",
    "is_cut_off",
    "is_plain_attribute",
    "read_checkpoint",
]

# numpy's codes of the dtypes of plain values; the objects in an array of `O` are checked, too.
_DTYPES = "?bhilqBHILQefdgFDSUMmO"
# Methods that are bound to a class in the file, and pickled as getattr(CLASS, NAME).
_ATTRIBUTES = {
    HistoryBuffer: ("min", "max", "mean", "current"),
    OneCycleParamScheduler: ("_annealing_cos", "_annealing_linear"),
}
_DATES = (datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone)
_PATHS = ("PurePath", "PurePosixPath", "PureWindowsPath", "Path", "PosixPath", "WindowsPath")
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or from which training cannot continue.

    The message names the file, the fault and the remedy. Nothing has been changed.
    """


def _plain_attribute(owner: type, name: str) -> Callable:
    """``getattr(owner, name)``, only for the names in ``_ATTRIBUTES``."""
    if name not in _ATTRIBUTES.get(owner, ()):
        raise pickle.UnpicklingError(f"refused to read attribute {name!r} of {owner!r}")
    return getattr(owner, name)


def allowed_types() -> dict[str, object]:
    """The objects that may be read besides tensors, by their full name in a file."""
    # The two functions with which arrays and scalars are pickled; their module depends on numpy.
    makers = {"_reconstruct": np.zeros(0).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
    dtypes = {type(np.dtype(code)) for code in _DTYPES}
    classes = [HistoryBuffer, OneCycleParamScheduler, Config, ConfigDict, *_DATES]
    classes += [collections.OrderedDict, np.ndarray, np.dtype, *dtypes]
    # Types that containers refer to: `defaultdict(list)`, `set`, ...
    classes += [int, float, complex, str, bytes, bool, list, tuple, dict, set, frozenset]
    classes += [slice, range]
    names = {f"{entry.__module__}.{entry.__qualname__}": entry for entry in classes}
    # A training may continue under another numpy, Python or operating system than it began with.
    for core in ("numpy.core", "numpy._core"):
        names |= {f"{core}.multiarray.{name}": function for name, function in makers.items()}
    foreign = "PosixPath" if os.name == "nt" else "WindowsPath"
    for module in ("pathlib", "pathlib._local"):
        for name in _PATHS:
            existing = f"Pure{name}" if name == foreign else name  # others cannot be made here
            names[f"{module}.{name}"] = getattr(pathlib, existing)
    # Allowing getattr itself would give access to every attribute of the objects above.
    names["builtins.getattr"] = _plain_attribute
    return names


def allow_training_state() -> None:
    """Let ``torch.load(weights_only=True)`` read mmengine's full training checkpoints.

    Besides tensors these hold log histories (``HistoryBuffer`` objects with numpy arrays), the
    state of schedulers, and the data set's ``metainfo``, in which parts of a config, numpy scalars,
    strings, dates and paths occur. Only these types are added to torch's allow-list, which holds
    for the whole process, under the names that numpy 1 and numpy 2 give them. Anything else in a
    file is still refused.
    """
    # Added under their names: some versions of mmengine read inside of
    # `torch.serialization.safe_globals([np.ndarray])`, which at its end removes the entry
    # `np.ndarray`, but not an entry with a name.
    torch.serialization.add_safe_globals([(value, name) for name, value in allowed_types().items()])


def read_checkpoint(
    path: str | Path, map_location: str | torch.device | None = "cpu", mmap: bool = False
) -> dict:
    """Read tensors, plain values, and the types that :func:`allow_training_state` allows.

    With torch's environment variable ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`` everything else is
    read as well, which lets the file run any code.

    Args:
        path: file written by ``torch.save``.
        map_location: as for ``torch.load``.
        mmap: read tensors only when they are used; for files in torch's zip format.

    Raises:
        FileNotFoundError: the file does not exist.
        CheckpointError: the file cannot be read; the message names the types that were refused.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    allow_training_state()  # again, because entries may have been removed
    try:
        # None means True, unless the environment variable above is set.
        return torch.load(path, map_location, weights_only=None, mmap=mmap and _is_zip(path))
    except Exception as error:
        raise CheckpointError(_explain(path, error)) from error


def _is_zip(path: Path) -> bool:
    """Whether a file is in torch's zip format and has its end, which a truncated file lacks."""
    return zipfile.is_zipfile(path)


def is_cut_off(path: Path) -> bool:
    """Whether a file is only the beginning of a checkpoint, or not a checkpoint."""
    if _is_zip(path):
        return False
    with path.open("rb") as file:
        return file.read(len(_LEGACY_MAGIC)) != _LEGACY_MAGIC


def _other_content(path: Path) -> str | None:
    """What a file is that was saved in a checkpoint's place, with the remedy; None if unknown."""
    with path.open("rb") as file:
        start = file.read(200).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        return "a web page, such as that of an error or a login; download the file itself"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS; `git lfs pull` in its repository fetches the file"
    return None


def is_plain_attribute(value: object) -> bool:
    """Whether a value is one of the functions that a checkpoint may name."""
    return any(
        value is getattr(owner, name) for owner, names in _ATTRIBUTES.items() for name in names
    )


def _explain(path: Path, error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError):
        return f"{path} cannot be read: {text}. Nothing was changed; make the file readable."
    if (other := _other_content(path)) is not None:
        return f"{path} is no checkpoint but {other}. Nothing was changed."
    if is_cut_off(path):
        return (
            f"{path} is not a whole checkpoint ({path.stat().st_size} bytes; a process was killed "
            "while it was written or copied). Nothing was changed; use another checkpoint, or "
            "remove this one."
        )
    if not isinstance(error, pickle.UnpicklingError):
        return f"{path} cannot be read: {type(error).__name__}: {text}. Nothing was changed."
    refused = _refused_types(path)
    what = f"values of the types {', '.join(refused)}" if refused else _reason(text)
    names = ", ".join(refused) or "..."
    return (
        f"{path} was not read: {what}. Only tensors, plain values and what training itself writes "
        "are read from checkpoints, since anything else may run code. Nothing was changed. If you "
        f"trust the file, call torch.serialization.add_safe_globals([{names}]) in a module that "
        "custom_imports of the config names; or set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 for this "
        "command, which lets the file run any code."
    )


def _refused_types(path: Path) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a legacy file, or not refused because of a type
        return []


def _reason(text: str) -> str:
    """The sentence of torch's long message that gives the cause."""
    marker = "WeightsUnpickler error: "
    return text.partition(marker)[2].splitlines()[0] if marker in text else text.splitlines()[0]


@CheckpointLoader.register_scheme(prefixes="", force=True)
def load_from_local(filename: str, map_location: str | torch.device | None = None) -> dict:
    """Replaces mmengine's reader of local files: it is safe, and explains what it refused.

    Of mmengine's own readers, one version does not explain refusals, and another reads a refused
    file again with the protection switched off.
    """
    return read_checkpoint(filename, map_location)


allow_training_state()
