"""Checkpoints and loading."""

from .checkpoint import AtomicLocalBackend, allow_training_state, find_resumable_checkpoint
from .loading import adapt_plain_checkpoints

__all__ = [
    "AtomicLocalBackend",
    "adapt_plain_checkpoints",
    "allow_training_state",
    "find_resumable_checkpoint",
]
