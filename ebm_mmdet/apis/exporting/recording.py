"""Record a module as a program of torch.export, its gradients included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ebm_ops.prroi_pool import dense

from ...energy.host_reads import without_reads

__all__ = ["Recorded", "record"]


@dataclass(frozen=True)
class Recorded:
    """A program with the names of what goes in and comes out."""

    program: torch.export.ExportedProgram
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    plain: bool
    """Whether it has operators of torch alone, so that nothing of ours is needed to run it."""


def record(
    graph: nn.Module,
    inputs: Sequence[Tensor],
    input_names: Sequence[str],
    output_names: Sequence[str],
    plain: bool = True,
) -> Recorded:
    """Record a module, for the shapes of these inputs.

    Args:
        graph: a module in eval mode that reads no values (:func:`~.host_reads.without_reads`).
        inputs: tensors.
        input_names: a name for each input.
        output_names: a name for each tensor that it returns.
        plain: replace our operators of pooling by operators of torch. They give the same up to
            rounding, but read the whole map for each box; False keeps ours, which are faster.

    Raises:
        ValueError: the module chooses something by a value, or draws random numbers.
    """
    inputs = tuple(inputs)
    # Once as it is: what is drawn once per process is there then, and is not recorded.
    with without_reads(), torch.no_grad():
        graph(*inputs)
    # Recorded with its gradients, which torch.export alone cannot take; that gives plain operators.
    try:
        with without_reads(), torch.no_grad():
            table = dense.decompositions() if plain else None
            recorded = make_fx(graph, decomposition_table=table)(*inputs)
    except RuntimeError as error:
        if "tracing tensor" not in str(error):
            raise
        raise ValueError(
            f"{type(graph).__name__} cannot be recorded: something in it chooses by the values of "
            f"a tensor, which a graph cannot ({error})"
        ) from error
    recorded.graph.eliminate_dead_code()
    recorded.recompile()
    with torch.no_grad():
        program = torch.export.export(recorded, inputs, strict=False)
    return Recorded(program, tuple(input_names), tuple(output_names), plain)
