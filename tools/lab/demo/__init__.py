"""The demo: from nothing to refined boxes on two CPU cores."""

from .data import DataError
from .run import run_demo

__all__ = ["DataError", "run_demo"]
