"""Load a plain detector checkpoint, or one of ours, into a wrapper, and say what happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from mmengine.logging import print_log
from torch import nn

__all__ = ["adapt_plain_checkpoints"]


def adapt_plain_checkpoints(
    wrapper: nn.Module, child: str, after: Callable[[], str] | None = None
) -> None:
    """Make ``wrapper`` accept checkpoints of its ``child`` alone.

    A checkpoint in which no key starts with ``child.`` although keys of the child are there is a
    plain one: its keys get the prefix, the wrapper's other parts keep their values, and ``after``
    runs. Our own checkpoints load unchanged. Works for ``load_state_dict`` and for mmengine's
    loader (``load_from``, ``--resume``, ``init_detector``), which read the same hooks.

    One message tells what did not match, grouped by module. For a plain checkpoint the wrapper's
    own parts do not count as missing.

    Args:
        wrapper: module that holds the child.
        child: attribute name of the child.
        after: called once a plain checkpoint is in place; returns a clause for the message.
    """
    prefix = f"{child}."
    plain = False

    def rename(module, state_dict, outer, *_) -> None:
        nonlocal plain
        own = {key[len(outer) :] for key in state_dict if key.startswith(outer)}
        known = getattr(module, child).state_dict().keys()
        plain = not any(key.startswith(prefix) for key in own) and bool(own & known)
        if plain:
            for key in own:
                state_dict[outer + prefix + key] = state_dict.pop(outer + key)
            _rename_metadata(getattr(state_dict, "_metadata", None), outer, child)

    def report(module, incompatible) -> None:
        missing, unexpected = incompatible.missing_keys, incompatible.unexpected_keys
        if plain:
            # In place: the caller raises, or prints, what is left in these lists.
            missing[:] = [key for key in missing if prefix in key]
        total = len(getattr(module, child).state_dict())
        absent = sum(prefix in key for key in missing)
        clauses = [f"{total - absent} of {total} tensors of the {child} found"]
        if missing:
            clauses.append("missing (keep their initial values): " + _summary(missing))
        if unexpected:
            clauses.append("not used: " + _summary(unexpected))
        if plain and after is not None:
            clauses.append(after())
        if plain or missing or unexpected:
            kind = (
                f"plain {child} checkpoint" if plain else f"checkpoint of {type(module).__name__}"
            )
            print_log(f"Loaded a {kind}: " + "; ".join(clauses) + ".", logger="current")

    wrapper.register_load_state_dict_pre_hook(rename)
    wrapper.register_load_state_dict_post_hook(report)


def _rename_metadata(metadata: dict | None, outer: str, child: str) -> None:
    """Let the child's modules find what the checkpoint says of them, such as a layout of weights.

    In place, by additional entries: the loader holds on to this dictionary.
    """
    for name, value in list((metadata or {}).items()):
        if f"{name}.".startswith(outer):
            own = name[len(outer) :]
            metadata[f"{outer}{child}.{own}" if own else f"{outer}{child}"] = value


def _summary(keys: Iterable[str], depth: int = 3, most: int = 8) -> str:
    """``a.b.c.weight, a.b.c.bias`` -> ``a.b.c (2)``, the largest groups first."""
    groups = Counter(".".join(key.split(".")[:-1][:depth]) or key for key in keys)
    shown = [f"{name} ({count})" for name, count in groups.most_common(most)]
    rest = len(groups) - len(shown)
    return ", ".join(shown) + (f" and {rest} more modules" if rest else "")
