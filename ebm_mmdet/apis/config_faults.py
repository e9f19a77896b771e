"""Faults of a config that appear when a part of it is built: the user's, not the code's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["building"]


@contextmanager
def building(part: str) -> Iterator[None]:
    """Within the context a part of a config is built.

    Args:
        part: its name in the config, for the message.

    Raises:
        ValueError: mmengine or the part's class refuses the settings: a type that is not
            registered (``KeyError``), an argument that the class does not have (``TypeError``), or
            a value that it does not take (these, ``AssertionError`` or ``AttributeError``).
    """
    try:
        yield
    except (AssertionError, AttributeError, KeyError, TypeError) as error:
        text = str(error.args[0]) if error.args else ""  # str() of a KeyError has quotes
        raise ValueError(
            f"{part} of the config cannot be built ({type(error).__name__}: {text})"
        ) from error
