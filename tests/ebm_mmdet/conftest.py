"""Settings shared by the tests of the 2D package."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let names of types mean mmdet's, also after a test of 3D in the same process."""
    if find_spec("mmdet"):
        from mmengine.registry import init_default_scope

        init_default_scope("mmdet")
