"""Settings shared by all tests."""

from __future__ import annotations

import logging
from collections import OrderedDict
from importlib.util import find_spec

import pytest


@pytest.fixture(autouse=True)
def _quiet_mmengine():
    """Mmengine logs every tensor it initialises, which buries the message of a failing test."""
    if find_spec("mmengine"):
        from mmengine.logging import MMLogger

        MMLogger.get_current_instance().setLevel(logging.WARNING)


@pytest.fixture(scope="module", autouse=True)
def _default_scope_of_its_own():
    """A detector that a module builds sets mmengine's default scope, in which types are looked up.

    It is global: without this a module would pass or fail by what its worker ran before.
    """
    if not find_spec("mmengine"):
        yield
        return
    from mmengine.registry import DefaultScope

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DefaultScope, "_instance_dict", OrderedDict())
        yield
