"""A model's intervals, from the checkpoint that holds them to its predictions."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ..files import in_a_new_place
from ..models.detectors.side_intervals import INTERVAL_KINDS, attach_intervals
from .checkpoint import write_checkpoint
from .safe_loading import read_checkpoint

__all__ = [
    "StoredIntervalsHook",
    "attach_stored_intervals",
    "calibrated_path",
    "model_digest",
    "refuse_existing",
    "store_intervals",
]


def model_digest(cfg: Config) -> str:
    """A short text that differs for configs of other models.

    To be taken before the model is built, because mmdet's detectors write into their config.
    """
    return hashlib.sha256(repr(cfg.model).encode()).hexdigest()[:16]


def calibrated_path(checkpoint: Path, out: str | os.PathLike | None) -> Path:
    """Where the checkpoint with intervals goes: ``out``, or ``NAME_intervals.pth`` beside it.

    Raises:
        FileExistsError: it exists.
    """
    path = Path(out) if out else checkpoint.with_name(f"{checkpoint.stem}_intervals.pth")
    refuse_existing(path)
    return path


def refuse_existing(out: Path) -> None:
    """Raise ``FileExistsError`` if there is something at the path of a checkpoint to write."""
    if os.path.lexists(out):
        raise FileExistsError(f"{out} exists and is not overwritten; remove it, or choose another")


def store_intervals(checkpoint: Path, out: Path, key: str, content: Mapping[str, Any]) -> None:
    """Write a checkpoint's weights again, with intervals under ``key`` of the meta.

    The file is written completely or not at all, and never in the place of another one.

    Raises:
        FileExistsError: ``out`` exists; its content stays.
    """
    stored = read_checkpoint(checkpoint)
    meta = {**stored.get("meta", {}), key: content}
    content = dict(meta=meta, state_dict=stored.get("state_dict", stored))
    try:
        with in_a_new_place(out) as partial:
            write_checkpoint(partial, content)
            refuse_existing(out)
    except FileExistsError:
        refuse_existing(out)
        raise


def attach_stored_intervals(model: nn.Module, checkpoint: Mapping, digest: str) -> None:
    """Let a model give the intervals that :func:`~ebm_mmdet.apis.calibrate` has stored, if any.

    Args:
        model: a detector, or a wrapper of one.
        checkpoint: the content of the checkpoint that has been loaded into it.
        digest: that of the model's config. A warning says so if it is not that of the calibration.

    Raises:
        ValueError: the intervals cannot be read.
    """
    for kind in INTERVAL_KINDS:
        intervals = kind.from_meta(checkpoint.get("meta") or {})
        if intervals is None:
            continue
        if intervals.facts.get("model", digest) != digest:
            warnings.warn(
                "the checkpoint's intervals were calibrated with other settings of the model than "
                f"these, so {kind.adds} may hold less often than it says; calibrate again with "
                "this config",
                stacklevel=2,
            )
        attach_intervals(model, intervals, kind)


class StoredIntervalsHook(Hook):
    """Does the same for the model of a runner, when it loads its checkpoint.

    Args:
        digest: of the config, before the runner was built.
    """

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Called by mmengine."""
        attach_stored_intervals(runner.model, checkpoint, self.digest)
