"""Checkpoints, loading, and a training hook."""

from .checkpoint import (
    AtomicLocalBackend,
    CheckpointError,
    ReadableCheckpointHook,
    allow_training_state,
    find_resumable_checkpoint,
    read_checkpoint,
)
from .loading import adapt_plain_checkpoints
from .norm_eval_hook import NormEvalHook

__all__ = [
    "AtomicLocalBackend",
    "CheckpointError",
    "NormEvalHook",
    "ReadableCheckpointHook",
    "adapt_plain_checkpoints",
    "allow_training_state",
    "find_resumable_checkpoint",
    "read_checkpoint",
]
