"""Checkpoints, loading, and a training hook."""

from ..models.detectors.loading import adapt_plain_checkpoints
from .checkpoint import AtomicLocalBackend, allow_training_state, find_resumable_checkpoint
from .norm_eval_hook import NormEvalHook

__all__ = [
    "AtomicLocalBackend",
    "NormEvalHook",
    "adapt_plain_checkpoints",
    "allow_training_state",
    "find_resumable_checkpoint",
]
