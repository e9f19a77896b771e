"""Take the outputs of modules while they run, for this thread only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

__all__ = ["captured_outputs"]

_listeners: ContextVar[tuple[dict[nn.Module, Any], ...]] = ContextVar("_listeners", default=())
"""Receivers of the outputs of modules, innermost last. Every thread has its own value."""


@contextmanager
def captured_outputs(*modules: nn.Module) -> Iterator[dict[nn.Module, Any]]:
    """Context in which the outputs of modules are captured, wherever they are called.

    Nothing is stored on a module except one forward hook, which stays.

    Yields:
        A dictionary from each module that has run, in this thread, to the output of its last run.
    """
    for module in modules:
        if _listen not in module._forward_hooks.values():
            module.register_forward_hook(_listen)
    heard: dict[nn.Module, Any] = {}
    token = _listeners.set((*_listeners.get(), heard))
    try:
        yield heard
    finally:
        _listeners.reset(token)


def _listen(module: nn.Module, _: tuple, output: Any) -> None:
    """Forward hook: pass a module's output to every receiver of this thread."""
    for heard in _listeners.get():
        heard[module] = output
