"""Settings shared by all tests."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _quiet_mmengine():
    """mmengine logs every tensor it initialises, which buries the message of a failing test."""
    pytest.importorskip("mmengine", reason="needs mmengine, which `make test` installs")
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.setLevel(logging.WARNING)
    yield
