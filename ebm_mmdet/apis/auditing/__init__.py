"""Look for annotations that are badly located, missing, or about nothing."""

from .decisions import apply_decisions
from .run import audit

__all__ = ["apply_decisions", "audit"]
