"""Checkpoints, loading, and a training hook."""

from .checkpoint import (
    AtomicLocalBackend,
    CheckpointError,
    ReadableCheckpointHook,
    allow_training_state,
    find_resumable_checkpoint,
    read_checkpoint,
)
from .norm_eval_hook import NormEvalHook

__all__ = [
    "AtomicLocalBackend",
    "CheckpointError",
    "NormEvalHook",
    "ReadableCheckpointHook",
    "allow_training_state",
    "find_resumable_checkpoint",
    "read_checkpoint",
]
