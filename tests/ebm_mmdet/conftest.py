"""Settings and fixtures shared by the tests of the 2D package."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let names of types mean mmdet's, also after a test of 3D in the same process."""
    if find_spec("mmdet"):
        from mmengine.registry import init_default_scope

        init_default_scope("mmdet")


@pytest.fixture
def messages(caplog):
    """Warnings that mmengine's logger emits (it does not propagate to the root logger)."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.WARNING)
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.removeHandler(caplog.handler)
