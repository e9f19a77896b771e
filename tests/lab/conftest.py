"""Fixtures that keep the tests of demos and studies short."""

from __future__ import annotations

import mmengine.config.config
import pytest


@pytest.fixture(autouse=True, scope="session")
def _configs_are_dumped_as_they_are():
    """Every runner lays its config out with yapf, ten times: half of the time of a tiny demo."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.config.config, "FormatCode", lambda text, **_: (text, True))
        yield
