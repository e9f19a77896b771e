"""A zero loss that keeps distributed training in step."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

__all__ = ["connected_zero"]


def connected_zero(parameters: Iterable[Tensor]) -> Tensor:
    """A zero with a gradient, also zero, for every parameter.

    Distributed training waits for the gradient of each parameter from each process. A process whose
    frames do not use a part of the network adds this to its losses; otherwise the next step fails
    ("expected to have finished reduction in the prior iteration").

    Args:
        parameters: at least one, each of any shape; values may be infinite or NaN.

    Returns:
        A scalar 0.
    """
    return sum(parameter.flatten()[:0].sum() for parameter in parameters)
