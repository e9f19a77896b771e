"""Weighting and reduction of losses per target, with mmdet's meaning of the arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Literal, ParamSpec, TypedDict

import torch
from torch import Tensor

__all__ = ["Reduction", "Weighting", "reduce_loss", "weighted"]

Reduction = Literal["none", "mean", "sum"]

_P = ParamSpec("_P")


class Weighting(TypedDict, total=False):
    """The keyword arguments that :func:`weighted` adds to a loss."""

    weight: Tensor | None
    """(N,) factor per target."""
    reduction: Reduction
    """``"mean"`` (the default), ``"sum"``, or ``"none"``, which returns (N,)."""
    avg_factor: float | Tensor | None
    """Divisor that replaces N in the mean, for example the number of targets averaged over all
    processes."""


# As in ``Weighting``; written out because documentation shows the signature of the decorated loss.
_WEIGHTING = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, default, annotation in (
        ("weight", None, Tensor | None),
        ("reduction", "mean", Reduction),
        ("avg_factor", None, float | Tensor | None),
    )
)


def weighted(loss_per_target: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
    """Decorate a loss whose body returns (N,), so that callers can weight and reduce it.

        weighted(L)(..., weight=w, reduction=r, avg_factor=a) == reduce_loss(L(...), w, r, a)

    The body declares the added arguments as ``**weighting: Unpack[Weighting]``, for type checkers,
    and never receives them. ``inspect.signature`` of the result shows them by name.
    """
    names = tuple(parameter.name for parameter in _WEIGHTING)
    signature = inspect.signature(loss_per_target)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    signature = signature.replace(parameters=[*own, *_WEIGHTING])

    @functools.wraps(loss_per_target)
    def loss(*args: _P.args, **kwargs: _P.kwargs) -> Tensor:
        # The body's ``**weighting`` would swallow a misspelt name.
        for name in kwargs:
            if name not in signature.parameters:
                raise TypeError(
                    f"{loss_per_target.__name__}() got an unexpected keyword argument {name!r}; "
                    f"it has {', '.join(signature.parameters)}."
                )
        weighting = {name: kwargs.pop(name) for name in names if name in kwargs}
        return reduce_loss(loss_per_target(*args, **kwargs), **weighting)  # type: ignore[arg-type]

    vars(loss)["__signature__"] = signature
    loss.__annotations__ = {
        **{p.name: p.annotation for p in signature.parameters.values()},
        "return": signature.return_annotation,
    }
    return loss


def reduce_loss(
    loss: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Weight and reduce a loss (N,) per target, with mmdet's meaning of the arguments.

    mean: Σ w_n L_n / N, or Σ w_n L_n / avg_factor; 0 and not NaN for N = 0.

    Raises:
        ValueError: unknown reduction; ``avg_factor`` with ``"sum"``; weight of another shape.
    """
    if weight is not None:
        if weight.shape != loss.shape:
            raise ValueError(
                f"weight has shape {tuple(weight.shape)}; expected one factor per target, "
                f"{tuple(loss.shape)}."
            )
        loss = loss * weight.to(loss.dtype)
    if reduction == "none":
        return loss
    if reduction == "sum" and avg_factor is None:
        return loss.sum()
    if reduction == "mean":
        if avg_factor is None:
            return loss.sum() / max(len(loss), 1)
        # The epsilon is mmdet's: a batch without targets has avg_factor 0 and loss 0, not NaN.
        return loss.sum() / (avg_factor + torch.finfo(torch.float32).eps)
    raise ValueError(
        f"reduction={reduction!r} with avg_factor={avg_factor!r} is not defined; use 'mean' "
        "(with or without avg_factor), or 'sum' or 'none' without it."
    )
