"""Settings shared by all tests."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import pytest


@pytest.fixture(autouse=True)
def _quiet_mmengine():
    """Mmengine logs every tensor it initialises, which buries the message of a failing test."""
    if find_spec("mmengine"):
        from mmengine.logging import MMLogger

        MMLogger.get_current_instance().setLevel(logging.WARNING)
