"""Fixtures of the tests of models."""

from __future__ import annotations

import logging

import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def log():
    """Records of mmengine's logger, which does not pass them on."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(level)
