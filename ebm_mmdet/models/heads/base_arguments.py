"""Arguments that a subclass takes for its base: seen in its signature, and checked by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable

__all__ = ["full_signature", "refuse_unknown"]


def full_signature(cls: type, root: type) -> inspect.Signature:
    """The signature of a class whose ``__init__`` hands ``**kwargs`` to that of its base.

    Args:
        cls: a subclass of ``root``.
        root: the class where the arguments end; its own ``**kwargs`` are what nobody knows.

    Returns:
        Its own arguments, and in the place of ``**kwargs`` those of its base, by keyword only.
    """
    taken = [p for p in inspect.signature(cls.__init__).parameters.values() if p.name != "self"]
    own = [p for p in taken if p.kind is not p.VAR_KEYWORD]
    if cls is not root and len(own) < len(taken):
        names = {p.name for p in own}
        base = full_signature(cls.__mro__[1], root).parameters.values()
        own += [p.replace(kind=p.KEYWORD_ONLY) for p in base if p.name not in names]
    return inspect.Signature(own)


def refuse_unknown(cls: type, unknown: Iterable[str]) -> None:
    """Raise a ``TypeError`` if there is an unknown argument, with the known one of a similar name.

    Args:
        cls: the class that was to be made; ``inspect.signature`` shows its arguments.
        unknown: names of arguments that neither it nor its bases know.
    """
    for name in unknown:
        known = [*inspect.signature(cls).parameters]
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]!r}? It has" if close else "it has"
        raise TypeError(f"{cls.__name__} has no argument {name!r}; {hint} {', '.join(known)}")
