"""Checkpoints, loading, and training hooks."""

from .channels_last_hook import ChannelsLastHook
from .checkpoint import (
    AtomicLocalBackend,
    find_resumable_checkpoint,
    refuse_earlier_training,
    write_checkpoint,
)
from .complete_weights_hook import CompleteWeightsHook
from .devices import usable_device
from .norm_eval_hook import NormEvalHook
from .readable_checkpoint_hook import ReadableCheckpointHook
from .safe_loading import CheckpointError, allow_training_state, read_checkpoint

__all__ = [
    "AtomicLocalBackend",
    "ChannelsLastHook",
    "CheckpointError",
    "CompleteWeightsHook",
    "NormEvalHook",
    "ReadableCheckpointHook",
    "allow_training_state",
    "find_resumable_checkpoint",
    "read_checkpoint",
    "refuse_earlier_training",
    "usable_device",
    "write_checkpoint",
]
