"""CPU versions of operators of mmcv that have none; arguments and results are mmcv's.

Each works on CPU tensors, whether or not it replaces mmcv's (:mod:`.without_cuda` does so).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

__all__ = [
    "points_in_boxes_all",
    "points_in_boxes_part",
    "sigmoid_focal_loss",
    "three_interpolate",
    "three_nn",
]


@torch.no_grad()
def three_nn(target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Find the three nearest neighbours of each target among the sources.

    Args:
        target: (B, N, 3) points; or (B, N, 4) with a frame number first, as the auxiliary network
            of SASSD passes them, and then only sources of the same frame are neighbours. (mmcv's
            CUDA kernel reads such rows as if they had three columns.)
        source: (B, M, 3) or (B, M, 4) likewise.

    Returns:
        Euclidean distances (B, N, 3), ascending, in the dtype of ``target``, and indices (B, N, 3)
        int32. A neighbour that does not exist has distance inf and index 0.

    Raises:
        ValueError: the shapes are different ones.
    """
    if target.dim() != 3 or target.shape[2] not in (3, 4) or source.shape[2] != target.shape[2]:
        raise ValueError(
            f"target {tuple(target.shape)} and source {tuple(source.shape)}; expected (B, N, 3) "
            "and (B, M, 3), or four columns in both with the frame number first"
        )
    dist = target.new_full((*target.shape[:2], 3), float("inf"))
    index = torch.zeros(dist.shape, dtype=torch.int32, device=target.device)
    for b in range(len(target)):
        for rows, columns in _same_frame(target[b], source[b]):
            found, nearest = cKDTree(source[b][columns][:, -3:].double().numpy()).query(
                target[b][rows][:, -3:].double().numpy(), k=3
            )
            missing = ~np.isfinite(found)
            nearest = columns[torch.from_numpy(np.where(missing, 0, nearest))]
            nearest[torch.from_numpy(missing)] = 0
            dist[b, rows] = torch.from_numpy(found).to(dist)
            index[b, rows] = nearest.int()
    return dist, index


def _same_frame(target: Tensor, source: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of targets, and of the sources that may be their neighbours; never empty."""
    if target.shape[1] == 3:
        target, source = (x.new_zeros(len(x), 1) for x in (target, source))
    for frame in target[:, 0].unique():
        columns = torch.nonzero(source[:, 0] == frame).squeeze(1)
        if len(columns):
            yield torch.nonzero(target[:, 0] == frame).squeeze(1), columns


def three_interpolate(features: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of the features of three neighbours.

    ``out[b, c, n] = Σ_k weight[b, n, k] features[b, c, indices[b, n, k]]``

    Args:
        features: (B, C, M), the only input that gets a gradient, as in mmcv.
        indices: (B, N, 3) integers.
        weight: (B, N, 3).

    Returns:
        (B, C, N).
    """
    batch, channels, _ = features.shape
    flat = indices.long().reshape(batch, 1, -1).expand(-1, channels, -1)
    neighbours = features.gather(2, flat).view(batch, channels, -1, 3)
    return (neighbours * weight.detach().unsqueeze(1)).sum(-1)


def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Focal loss of independent classes; the argument names are mmcv's.

    Args:
        input: (N, C) logits.
        target: (N,) int64 class, C for background.
        gamma: focusing exponent.
        alpha: weight of positives.
        weight: (C,) factor of rows whose target is class c; background rows have factor 1.
        reduction: ``'none'``, ``'sum'``, or ``'mean'``, which divides the sum by N.

    Returns:
        (N, C), or a scalar.
    """
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    one_hot = F.one_hot(target, input.shape[1] + 1)[:, :-1]
    if weight is not None:
        weight = F.pad(weight, (0, 1), value=1.0)[target]
    loss = py_sigmoid_focal_loss(input, one_hot, weight, gamma, alpha, reduction="none")
    if reduction == "none":
        return loss
    return loss.sum() / len(input) if reduction == "mean" else loss.sum()


def points_in_boxes_all(points: Tensor, boxes: Tensor) -> Tensor:
    """Find all boxes around each point.

    Args:
        points: (B, M, 3) in metres.
        boxes: (B, T, 7) ``(x, y, z, l, w, h, yaw)``, z at the bottom.

    Returns:
        (B, M, T) int32, 1 where point m lies in box t.
    """
    from mmcv.ops import points_in_boxes_cpu

    return points_in_boxes_cpu(points, boxes).contiguous()


def points_in_boxes_part(points: Tensor, boxes: Tensor) -> Tensor:
    """Find the first box around each point.

    Args:
        points: (B, M, 3) in metres.
        boxes: (B, T, 7), see :func:`points_in_boxes_all`.

    Returns:
        (B, M) int32, the smallest t whose box contains the point, or -1.
    """
    inside = points_in_boxes_all(points, boxes)
    if not inside.shape[2]:
        return inside.new_full(inside.shape[:2], -1)
    first = inside.argmax(dim=2)  # of equal values the first one
    return torch.where(inside.any(dim=2), first, -1).to(inside.dtype)
