"""Safe checkpoints: atomic writes, restricted reads, and a search for the newest intact one."""

from __future__ import annotations

import collections
import datetime
import enum
import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.optim.scheduler import OneCycleParamScheduler
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner

from ..files import PARTIAL, write_bytes

__all__ = [
    "AtomicLocalBackend",
    "CheckpointError",
    "ReadableCheckpointHook",
    "allow_training_state",
    "find_resumable_checkpoint",
    "read_checkpoint",
]

# numpy's codes of the dtypes of plain values; the objects in an array of `O` are checked, too.
_DTYPES = "?bhilqBHILQefdgFDSUMmO"
# Bound to a class in the file, and pickled as getattr(CLASS, NAME).
_ATTRIBUTES = {
    HistoryBuffer: ("min", "max", "mean", "current"),
    OneCycleParamScheduler: ("_annealing_cos", "_annealing_linear"),
}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray)
_CONTAINERS = (dict, collections.OrderedDict, ConfigDict, list, tuple, set, frozenset)
_DATES = (datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone)
_PATHS = ("PurePath", "PurePosixPath", "PureWindowsPath", "Path", "PosixPath", "WindowsPath")
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or from which training cannot continue.

    The message names the file, the fault and the remedy. Nothing has been changed.
    """


class AtomicLocalBackend(LocalBackend):
    """Writes local files atomically: if the process dies, the file has its old or its new content.

    Used by ``CheckpointHook(backend_args=dict(backend='atomic'))``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to ``filepath`` atomically; folders are created as needed."""
        write_bytes(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Write text atomically."""
        self.put(obj.encode(encoding), filepath)


def _plain_attribute(owner: type, name: str) -> Callable:
    """``getattr(owner, name)``, only for the names in ``_ATTRIBUTES``."""
    if name not in _ATTRIBUTES.get(owner, ()):
        raise pickle.UnpicklingError(f"refused to read attribute {name!r} of {owner!r}")
    return getattr(owner, name)


def _allowed() -> dict[str, object]:
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
    torch.serialization.add_safe_globals([(value, name) for name, value in _allowed().items()])


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


def _is_cut_off(path: Path) -> bool:
    """Whether a file is only the beginning of a checkpoint, or not a checkpoint."""
    if _is_zip(path):
        return False
    with path.open("rb") as file:
        return file.read(len(_LEGACY_MAGIC)) != _LEGACY_MAGIC


def _explain(path: Path, error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError):
        return f"{path} cannot be read: {text}. Nothing was changed; make the file readable."
    if _is_cut_off(path):
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


def find_resumable_checkpoint(work_dir: str | Path) -> str | None:
    """Path of the newest intact training checkpoint in a folder; None if there is none.

    Candidates are the ``*.pth`` files of the folder and the file that mmengine's
    ``last_checkpoint`` names (which is elsewhere with ``CheckpointHook(out_dir=...)``), newest
    first. ``last_checkpoint`` alone is not reliable: after a process was killed at the wrong
    moment it may be empty, or name a file that no longer exists.

    - A file that was truncated, by a killed process or a full disk, is reported and skipped.
    - A file without a training state, such as downloaded weights, is skipped.
    - An intact file that cannot be read, or was saved without its optimizer, stops the search:
      continuing from an older one, or from the beginning, would discard work and finally delete it.

    Partial checkpoints that a killed process left are removed, because training continues here and
    nothing else would remove them. Every process of a distributed training may do so: none of them
    writes before all have finished this search.

    Raises:
        CheckpointError: there are checkpoints, but training cannot continue from them.
    """
    work_dir = Path(work_dir)
    for half in work_dir.glob(f".*.pth.*{PARTIAL}"):
        half.unlink(missing_ok=True)
    files = {
        path.resolve(): path for path in [*work_dir.glob("*.pth"), *_last_checkpoint(work_dir)]
    }
    damaged = []
    for path in sorted(files.values(), key=lambda path: path.stat().st_mtime, reverse=True):
        if not path.is_file():
            raise CheckpointError(
                f"{path} is a folder, as DeepSpeed writes checkpoints: give the one to go on from "
                "to --resume by name. Nothing was changed."
            )
        if os.access(path, os.R_OK) and _is_cut_off(path):
            damaged.append(path)
            print_log(
                f"Not resuming from {path}: it is not a whole checkpoint "
                f"({path.stat().st_size} bytes)",
                logger="current",
                level=30,
            )
            continue
        state = read_checkpoint(path, mmap=True)
        if not isinstance(state, dict) or "message_hub" not in state:
            if not (isinstance(state, dict) and "optimizer" in state):
                continue  # weights without a training state
        elif "optimizer" not in state:
            raise CheckpointError(
                f"{path} was saved without its optimizer (CheckpointHook(save_optimizer=False)): "
                "training cannot go on from it, and beginning again here would overwrite it. "
                f"Nothing was changed; give another --work-dir, with load_from={path}."
            )
        return str(path)
    if damaged:
        raise CheckpointError(
            f"no checkpoint in {work_dir} is whole: {', '.join(path.name for path in damaged)}. "
            "Nothing was changed; move these files away to begin again, or give another --work-dir."
        )
    return None


def _last_checkpoint(work_dir: Path) -> list[Path]:
    """The file that mmengine's ``last_checkpoint`` names, if it exists."""
    note = work_dir / "last_checkpoint"
    named = note.read_text(encoding="utf-8").strip() if note.is_file() else ""
    if "://" in named:
        raise CheckpointError(
            f"{note} names {named}, which is not a local file: give it to --resume by name."
        )
    if named and Path(named).is_file():
        return [Path(named)]
    if named and not (work_dir / Path(named).name).is_file():
        print_log(f"{note} names {named}, which does not exist", logger="current", level=30)
    return []


@HOOKS.register_module()
class ReadableCheckpointHook(Hook):
    """Make sure that everything in a training checkpoint can be read again.

    Values that :func:`read_checkpoint` would refuse are written as a plain value of the same kind
    (a ``deque`` as a list, a member of an enumeration as its value); the last resort is their
    ``repr``, with a warning that names the entry. Weights and the state of the optimizer are not
    changed. ``tools/train.py`` and the demos add this hook automatically.
    """

    priority = "VERY_LOW"

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace entries of the checkpoint in place; mmengine has copied its own objects."""
        known = {value for value in _allowed().values() if isinstance(value, type)}
        for key, value in checkpoint.items():
            if key not in ("state_dict", "optimizer", "ema_state_dict"):
                checkpoint[key] = _readable(value, key, known)


def _readable(value: object, where: str, known: set[type]) -> object:
    """``value`` if it can be read again, else the plain value that replaces it."""
    kind = type(value)
    if isinstance(value, (torch.dtype, torch.device, torch.Size)):
        return value
    if isinstance(value, enum.Enum):
        return _readable(value.value, where, known)
    if isinstance(value, Config):
        value, kind = value._cfg_dict, ConfigDict
    if isinstance(value, Mapping):
        # By the base class, because `ConfigDict.items` builds the lazy objects of a config.
        pairs = dict.items(value) if isinstance(value, dict) else value.items()
        items = {
            _readable(key, f"{where}.{key}", known): _readable(item, f"{where}.{key}", known)
            for key, item in pairs
        }
        return kind(items) if kind in _CONTAINERS else items
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        items = [_readable(item, f"{where}.{i}", known) for i, item in enumerate(value)]
        if kind in _CONTAINERS:
            return kind(items)
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, np.ndarray) and value.dtype == object:
        return _readable(value.tolist(), where, known)
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic, pathlib.PurePath)):
        return value
    if kind in known or kind in _PLAIN or _is_plain_attribute(value):
        return value
    for base in _PLAIN[2:]:  # a subclass of int, float, ...
        if isinstance(value, base):
            return base(value)
    print_log(
        f"The checkpoint's entry {where} is of the type {kind.__module__}.{kind.__qualname__}, "
        f"which is not read from checkpoints: its repr is saved instead, {value!r:.80}",
        logger="current",
        level=30,
    )
    return repr(value)


def _is_plain_attribute(value: object) -> bool:
    return any(
        value is getattr(owner, name) for owner, names in _ATTRIBUTES.items() for name in names
    )


@CheckpointLoader.register_scheme(prefixes="", force=True)
def load_from_local(filename: str, map_location: str | torch.device | None = None) -> dict:
    """Replaces mmengine's reader of local files: it is safe, and explains what it refused.

    Of mmengine's own readers, one version does not explain refusals, and another reads a refused
    file again with the protection switched off.
    """
    return read_checkpoint(filename, map_location)


register_backend("atomic", AtomicLocalBackend, force=True)
allow_training_state()
