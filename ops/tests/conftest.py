"""Fixtures of the operators' tests. They need torch, pytest and hypothesis, and nothing else."""

from __future__ import annotations

import pytest

TESTERS = ("operator_tester", "precision_tester", "property_tester", "backend_tester")
pytest.register_assert_rewrite(*TESTERS)

from ebm_ops import backend_info  # noqa: E402
from surroundings import HAS_CPP  # noqa: E402


@pytest.fixture(params=["cpp", "reference"])
def backend(request) -> str:
    """Every implementation that serves CPU tensors here."""
    if request.param == "cpp" and not HAS_CPP:
        pytest.skip(f"no C++ backend: {backend_info()['cpu'].why}")
    return request.param


def pytest_generate_tests(metafunc) -> None:
    """Give the tests of `OperatorTester` the values that the operator's class has for them."""
    for name, values in getattr(metafunc.cls, "cases", {}).items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values, ids=lambda value: str(value) or "-")
