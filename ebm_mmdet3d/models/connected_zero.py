"""A loss of nothing that distributed training can live with."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

__all__ = ["connected_zero"]


def connected_zero(parameters: Iterable[Tensor]) -> Tensor:
    """A zero whose gradient is zero, and there, for every parameter.

    Distributed training waits for the gradient of each parameter from each process. A process
    whose frames leave out a part of the network adds this to its losses; otherwise the next step
    stops ("expected to have finished reduction in the prior iteration").

    Args:
        parameters: at least one, each of any shape; values that are not finite do no harm.

    Returns:
        A scalar 0.
    """
    return sum(parameter.flatten()[:0].sum() for parameter in parameters)
