"""Names of arguments that are no longer accepted, and why."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["refuse"]

_T = TypeVar("_T")


def refuse(name: str, explain: Callable[[Any], str]) -> Callable[[type[_T]], type[_T]]:
    """Decorate a class so that an argument it no longer has is refused with an explanation.

    A config that inherits from one of ours may still set it. Without the explanation the error
    would be "unexpected keyword argument", which does not tell what to write instead.

    Args:
        name: the keyword argument.
        explain: the message, from the value that was given.
    """

    def decorate(cls: type[_T]) -> type[_T]:
        init = cls.__init__

        @functools.wraps(init)
        def __init__(self: _T, *args: Any, **kwargs: Any) -> None:
            if name in kwargs:
                raise ValueError(f"{cls.__name__}: {explain(kwargs[name])}")
            init(self, *args, **kwargs)

        cls.__init__ = __init__  # type: ignore[method-assign, assignment]
        return cls

    return decorate
