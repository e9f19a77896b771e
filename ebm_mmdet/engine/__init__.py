"""Checkpoints, loading, and a training hook."""

from .checkpoint import AtomicLocalBackend, find_resumable_checkpoint
from .norm_eval_hook import NormEvalHook
from .readable_checkpoint_hook import ReadableCheckpointHook
from .safe_loading import CheckpointError, allow_training_state, read_checkpoint

__all__ = [
    "AtomicLocalBackend",
    "CheckpointError",
    "NormEvalHook",
    "ReadableCheckpointHook",
    "allow_training_state",
    "find_resumable_checkpoint",
    "read_checkpoint",
]
