"""Checkpoints, loading, and a training hook."""

from .checkpoint import AtomicLocalBackend, allow_training_state, find_resumable_checkpoint
from .norm_eval_hook import NormEvalHook

__all__ = [
    "AtomicLocalBackend",
    "NormEvalHook",
    "allow_training_state",
    "find_resumable_checkpoint",
]
