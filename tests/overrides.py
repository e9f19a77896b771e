"""Do our classes take what the methods that they override take?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

__all__ = ["check_override", "overrides"]


def overrides(module: ModuleType) -> Iterator:
    """(ours, theirs) of every class in ``__all__`` that overrides another package's function."""
    for name in module.__all__:
        cls = getattr(module, name, None)
        for method, function in vars(cls).items() if isinstance(cls, type) else ():
            if not inspect.isfunction(function) or method == "__init__":
                continue
            for base in cls.__mro__[1:]:
                if method in vars(base) and not base.__module__.startswith("ebm_mmdet"):
                    yield pytest.param(function, vars(base)[method], id=f"{name}.{method}")
                    break


def check_override(ours: Callable, theirs: Callable) -> None:
    """Whoever calls ``theirs`` by its signature may call ``ours``."""
    if not inspect.isfunction(theirs):
        pytest.skip("the base is no plain function")
    if getattr(theirs, "__isabstractmethod__", False) or theirs.__name__ != ours.__name__:
        pytest.skip("the base leaves the signature to its subclasses")
    mine, base = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
    kinds = {p.kind for p in mine.values()}
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds
    for name, parameter in base.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        assert name in mine or takes_any, f"{name} of {theirs.__qualname__} is missing"
        if name in mine and parameter.default is not parameter.empty:
            assert mine[name].default is not parameter.empty, f"{name} has become required"
    for name, parameter in mine.items():
        if name not in base and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            assert parameter.default is not parameter.empty, f"{name} is required here only"
