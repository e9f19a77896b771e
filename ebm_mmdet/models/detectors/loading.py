"""Load a plain detector checkpoint, or a wrapper's own, into a wrapper, and report the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from mmengine.logging import print_log
from torch import nn

__all__ = ["CheckpointOfChild"]


@dataclass
class _Loading:
    """Facts about a state dict, kept from its arrival until the report."""

    plain: bool
    """Whether it is a checkpoint of the child alone."""
    total: int
    """Number of tensors of the child."""
    found: int
    """Number of them that the checkpoint has in the right shape."""
    other_shape: list[str] = field(default_factory=list)
    """Names of those that it has in another shape, and that are therefore not loaded."""


class CheckpointOfChild:
    """Mixin for a module that accepts checkpoints of the module that it wraps.

    A checkpoint is plain if more of its keys are those of the child than those of the child with
    the prefix ``child.`` (a child may be a wrapper too): its keys get that prefix, the wrapper's
    other parts keep their values, and :meth:`after_plain_checkpoint` runs. Checkpoints of the
    wrapper load unchanged. This works for ``load_state_dict`` and for mmengine's loader
    (``load_from``, ``--resume``, ``init_detector``).

    One message lists what did not match, grouped by module. The wrapper's own parts do not count as
    missing from a plain checkpoint.
    """

    child: str
    """Attribute name of the wrapped module."""

    def report_loading(self) -> None:
        """Register the hook that writes the message; called once, in ``__init__``.

        The hook is a function of this module and not a closure, so that a model can be pickled and
        loading into its deep copy changes only the copy.
        """
        self.register_load_state_dict_post_hook(_report)

    def after_plain_checkpoint(self) -> str:
        """Called after a plain checkpoint has been loaded; returns a clause for the message."""
        return ""

    def after_own_checkpoint(self, missing: Iterable[str]) -> None:
        """Called after a checkpoint of the wrapper has been loaded except for ``missing`` keys."""

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        # The root is called before its children, so they find the keys that are renamed here.
        own = {key[len(prefix) :] for key in state_dict if key.startswith(prefix)}
        wanted = getattr(self, self.child).state_dict()
        inner = f"{self.child}."
        plain = len(own & wanted.keys()) > len(own & {inner + key for key in wanted})
        if plain:
            for key in own:
                state_dict[prefix + inner + key] = state_dict.pop(prefix + key)
            _rename_metadata(getattr(state_dict, "_metadata", None), prefix, self.child)
        loading = _Loading(plain, len(wanted), 0)
        for key, value in wanted.items():
            given = state_dict.get(prefix + inner + key)
            if given is not None and getattr(given, "shape", None) != getattr(value, "shape", None):
                loading.other_shape.append(f"{inner}{key}")
            elif given is not None:
                loading.found += 1
        self.__dict__["_loading"] = loading
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _report(module: nn.Module, incompatible) -> None:
    """Post-hook of ``load_state_dict``: report what was found and what was not."""
    loading: _Loading | None = module.__dict__.pop("_loading", None)
    if loading is None:
        return
    missing, unexpected = incompatible.missing_keys, incompatible.unexpected_keys
    inner = f"{module.child}."
    if loading.plain:
        # Changed in place: the caller raises or prints what is left in these lists.
        missing[:] = [key for key in missing if inner in key]
    clauses = [f"{loading.found} of {loading.total} tensors of the {module.child} found"]
    if loading.other_shape:
        clauses.append("in another shape (not loaded): " + _summary(loading.other_shape))
    if missing:
        clauses.append("missing (keep their initial values): " + _summary(missing))
    if unexpected:
        clauses.append("not used: " + _summary(unexpected))
    if loading.plain:
        clauses.append(module.after_plain_checkpoint())
    else:
        module.after_own_checkpoint(missing)
    if loading.plain or loading.other_shape or missing or unexpected:
        kind = (
            f"plain {module.child} checkpoint"
            if loading.plain
            else f"checkpoint of {type(module).__name__}"
        )
        text = "; ".join(clause for clause in clauses if clause)
        print_log(f"Loaded a {kind}: {text}.", logger="current")


def _rename_metadata(metadata: dict | None, outer: str, child: str) -> None:
    """Copy the metadata of the child's modules, such as their versions, to their new names.

    Entries are added in place, because the loader keeps a reference to this dictionary.
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
