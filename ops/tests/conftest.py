"""Fixtures of the operators' tests. They need torch, pytest and hypothesis, and nothing else."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("operator_tester")

from ebm_ops import backend_info  # noqa: E402
from operator_tester import HAS_CPP  # noqa: E402


@pytest.fixture(params=["cpp", "reference"])
def backend(request) -> str:
    """Every implementation that serves CPU tensors here."""
    if request.param == "cpp" and not HAS_CPP:
        pytest.skip(f"no C++ backend: {backend_info()['cpu'].why}")
    return request.param
