"""Checkpoints that survive: atomic writes, safe reads, and the newest one that is whole."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer, print_log

from ..files import PARTIAL, write_bytes

__all__ = ["AtomicLocalBackend", "allow_training_state", "find_resumable_checkpoint"]


class AtomicLocalBackend(LocalBackend):
    """Local files that are either the old content or the new one, whenever the process dies.

    Used by ``CheckpointHook(backend_args=dict(backend='atomic'))``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to ``filepath`` atomically; folders are made as needed."""
        write_bytes(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Write text atomically."""
        self.put(obj.encode(encoding), filepath)


def _history_statistic(owner: type, name: str) -> Callable:
    """``getattr(HistoryBuffer, name)`` for its four statistics, and nothing else."""
    if owner is not HistoryBuffer or name not in ("min", "max", "mean", "current"):
        raise pickle.UnpicklingError(f"refused to read attribute {name!r} of {owner!r}")
    return getattr(owner, name)


def allow_training_state() -> None:
    """Let ``torch.load(weights_only=True)`` read mmengine's full training checkpoints.

    Besides tensors they hold log histories, ``HistoryBuffer`` objects with numpy arrays, and names
    of classes, which mmdet3d's KITTI files hold as numpy strings. Only these types are added to
    torch's allow-list (process-wide, as torch defines it); anything else in a file is still
    refused.
    """
    scalars = [np.float64, np.float32, np.int64, np.int32, np.bool_, np.str_]
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            OrderedDict,
            np.ndarray,
            np.dtype,
            np.core.multiarray._reconstruct,
            np.core.multiarray.scalar,
            *(type(np.dtype(scalar)) for scalar in scalars),
            # A HistoryBuffer pickles its statistics methods as getattr(HistoryBuffer, name). To
            # allow getattr itself would open every attribute of everything allowed above.
            (_history_statistic, "builtins.getattr"),
        ]
    )


def find_resumable_checkpoint(work_dir: str | Path) -> str | None:
    """Path of the newest readable training checkpoint in a folder, or None.

    mmengine's ``last_checkpoint`` file is not trusted alone: a process killed at the wrong moment
    leaves it empty, or naming a file that is gone. Candidates are the ``*.pth`` files of the
    folder, newest first; the first one that loads and holds an optimizer state is returned, and
    every one passed over is named.

    Halves of checkpoints that a killed process left are removed, since training goes on here and
    nothing else would. Every process of a distributed training may do so: none of them writes
    before all have come this far.
    """
    for half in Path(work_dir).glob(f".*.pth.*{PARTIAL}"):
        half.unlink(missing_ok=True)
    files = sorted(Path(work_dir).glob("*.pth"), key=lambda path: path.stat().st_mtime)
    for path in reversed(files):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # any way in which a damaged file can fail to load
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            print_log(f"Not resuming from {path}: {reason}", logger="current", level=30)
            continue
        if isinstance(state, dict) and "optimizer" in state:
            return str(path)
    return None


register_backend("atomic", AtomicLocalBackend, force=True)
allow_training_state()
