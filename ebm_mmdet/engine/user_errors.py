"""Errors that the user can mend; tools/train.py and tools/test.py show their message alone."""

from __future__ import annotations

from ..datasets import AnnotationError
from ..regression.datasets import ArrayFileError, TargetError
from .config_options import UsageError
from .safe_loading import CheckpointError

__all__ = ["USER_ERRORS"]

USER_ERRORS = (
    UsageError,
    AnnotationError,
    ArrayFileError,
    CheckpointError,
    FileExistsError,
    FileNotFoundError,
    TargetError,
)
