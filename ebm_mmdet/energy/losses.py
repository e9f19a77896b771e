"""Loss functions of log-densities: pure tensor arithmetic, no model and no sampling inside.

``weight``, ``reduction`` and ``avg_factor`` mean what they mean in mmdet. All arithmetic is done in
float32 or better, also under autocast.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .log_density import at_least_float32

__all__ = ["nce_loss"]

Reduction = Literal["none", "mean", "sum"]


def nce_loss(
    log_f: Tensor,
    log_q: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    avg_factor: float | Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Noise contrastive estimation, ranking form: find the positive among the noise.

        L_n = logsumexp_m(a_nm) - a_n0,   a_nm = f(x_n, y_nm) - log q(y_nm),   m = 0..M

    Index 0 is the positive. L is invariant to a constant added to all f of one target, is never
    negative, and is log(1 + M) where all a are equal.

    Source: Gustafsson et al., BMVC 2020 (arXiv:2005.01698), NCE and NCE+.

    Args:
        log_f: (N, 1+M) unnormalised log-densities f.
        log_q: (N, 1+M) log-densities of the noise at the same points, in nats.
        weight: (N,) factor per target.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        avg_factor: divisor that replaces N in the mean, for example the number of targets
            averaged over all processes.
        valid: (N, 1+M) bool, False for padded noise samples, which then do not exist. Column 0 is
            not read: to leave out a target, give it weight 0.

    Returns:
        A scalar, or (N,) for ``reduction="none"``. For N = 0 the scalar is a zero connected to
        the graph of ``log_f``.

    Raises:
        ValueError: shapes do not agree, or the reduction is unknown or cannot use ``avg_factor``.
    """
    if log_f.dim() != 2 or log_f.shape[1] == 0 or log_f.shape != log_q.shape:
        raise ValueError(
            f"log_f {tuple(log_f.shape)} and log_q {tuple(log_q.shape)} must both be (N, 1+M), "
            "the positive in column 0."
        )
    dtype = at_least_float32(log_f.dtype)
    logits = log_f.to(dtype) - log_q.to(dtype)
    if valid is not None:
        absent = ~valid.to(torch.bool)
        absent[:, 0] = False
        logits = logits.masked_fill(absent, -torch.inf)
    # log_softmax subtracts the maximum first, so a small loss stays exact beside |f| = 1e4.
    return reduce_loss(-logits.log_softmax(1)[:, 0], weight, reduction, avg_factor)


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
