"""Checkpoints are read without running code of theirs, and what is refused is named."""

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
# Bound to a class in the file, and pickled as getattr(CLASS, NAME).
_ATTRIBUTES = {
    HistoryBuffer: ("min", "max", "mean", "current"),
    OneCycleParamScheduler: ("_annealing_cos", "_annealing_linear"),
}
_DATES = (datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone)
_PATHS = ("PurePath", "PurePosixPath", "PureWindowsPath", "Path", "PosixPath", "WindowsPath")
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or from which training cannot go on.

    The message names the file, what was wrong with it, and the remedy. Nothing has been changed.
    """


def _plain_attribute(owner: type, name: str) -> Callable:
    """``getattr(owner, name)`` for the names in ``_ATTRIBUTES``, and nothing else."""
    if name not in _ATTRIBUTES.get(owner, ()):
        raise pickle.UnpicklingError(f"refused to read attribute {name!r} of {owner!r}")
    return getattr(owner, name)


def allowed_types() -> dict[str, object]:
    """What may be read besides tensors: full name in a file to the object that it stands for."""
    # The two functions that arrays and scalars are pickled by; where they live depends on numpy.
    makers = {"_reconstruct": np.zeros(0).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
    dtypes = {type(np.dtype(code)) for code in _DTYPES}
    classes = [HistoryBuffer, OneCycleParamScheduler, Config, ConfigDict, *_DATES]
    classes += [collections.OrderedDict, np.ndarray, np.dtype, *dtypes]
    # Written by reference where a container of them is: `defaultdict(list)`, `set`, ...
    classes += [int, float, complex, str, bytes, bool, list, tuple, dict, set, frozenset]
    classes += [slice, range]
    names = {f"{entry.__module__}.{entry.__qualname__}": entry for entry in classes}
    # A training may go on under another numpy, Python or operating system than it began with.
    for core in ("numpy.core", "numpy._core"):
        names |= {f"{core}.multiarray.{name}": function for name, function in makers.items()}
    foreign = "PosixPath" if os.name == "nt" else "WindowsPath"
    for module in ("pathlib", "pathlib._local"):
        for name in _PATHS:
            existing = f"Pure{name}" if name == foreign else name  # others cannot be made here
            names[f"{module}.{name}"] = getattr(pathlib, existing)
    # To allow getattr itself would open every attribute of everything allowed above.
    names["builtins.getattr"] = _plain_attribute
    return names


def allow_training_state() -> None:
    """Let ``torch.load(weights_only=True)`` read mmengine's full training checkpoints.

    Besides tensors they hold log histories (``HistoryBuffer`` objects with numpy arrays), the state
    of schedulers, and the data set's ``metainfo``, in which pieces of a config, numpy scalars and
    strings, dates and paths occur. Only these types are added to torch's allow-list (process-wide,
    as torch defines it), under the names that numpy 1 and numpy 2 give them; anything else in a
    file is still refused.
    """
    # With their names: `torch.serialization.safe_globals([np.ndarray])`, in which some versions of
    # mmengine read, removes the entry `np.ndarray` when it ends, and leaves this one alone.
    torch.serialization.add_safe_globals([(value, name) for name, value in allowed_types().items()])


def read_checkpoint(
    path: str | Path, map_location: str | torch.device | None = "cpu", mmap: bool = False
) -> dict:
    """Read a checkpoint file: tensors, plain values, and what :func:`allow_training_state` allows.

    ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`` in the environment is torch's own way to read everything
    else as well; it lets the file run any code.

    Args:
        path: file written by ``torch.save``.
        map_location: as for ``torch.load``.
        mmap: do not read tensors before they are used; for files in torch's zip format.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file cannot be read; the message names the types that were refused.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    allow_training_state()  # whatever has been taken out of the list since
    try:
        # None stands for True, unless the environment variable above says otherwise.
        return torch.load(path, map_location, weights_only=None, mmap=mmap and _is_zip(path))
    except Exception as error:
        raise CheckpointError(_explain(path, error)) from error


def _is_zip(path: Path) -> bool:
    """Whether a file is in torch's format and has an end, which is what a cut-off file lacks."""
    return zipfile.is_zipfile(path)


def is_cut_off(path: Path) -> bool:
    """Whether a file is but the beginning of a checkpoint, or none at all."""
    if _is_zip(path):
        return False
    with path.open("rb") as file:
        return file.read(len(_LEGACY_MAGIC)) != _LEGACY_MAGIC


def is_plain_attribute(value: object) -> bool:
    """Whether a value is one of the functions that a checkpoint may name."""
    return any(
        value is getattr(owner, name) for owner, names in _ATTRIBUTES.items() for name in names
    )


def _explain(path: Path, error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError):
        return f"{path} cannot be read: {text}. Nothing was changed; make the file readable."
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
    except Exception:  # a legacy file, or refused for another reason than a type
        return []


def _reason(text: str) -> str:
    """The sentence of torch's long message that says what happened."""
    marker = "WeightsUnpickler error: "
    return text.partition(marker)[2].splitlines()[0] if marker in text else text.splitlines()[0]


@CheckpointLoader.register_scheme(prefixes="", force=True)
def load_from_local(filename: str, map_location: str | torch.device | None = None) -> dict:
    """What mmengine reads local files with, in place of its own: safe, and saying what it refused.

    Of mmengine's own, one version leaves refusals unexplained, and another reads a refused file
    again with the protection off.
    """
    return read_checkpoint(filename, map_location)


allow_training_state()
