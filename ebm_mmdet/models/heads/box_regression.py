"""A regression output of an energy head: where the object is, as seen from any box."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...energy.float32_linear import Float32Linear
from ...energy.objectives import DSMObjective, ScoreMatchingObjective
from ...energy.reduction import reduce_loss
from ..box_coding import encode_boxes
from .box_log_density import BoxLogDensity

__all__ = ["BoxRegression", "RegressingBoxLogDensity", "TrainingBoxLogDensity", "paired_iou"]

USUAL_STD = 0.1
"""Spread of residuals where the objective has no noise; that of R-CNN's box coder."""


class BoxRegression(nn.Module):
    r"""δ(x, y, c) ∈ R^4, a linear output of the trunk: offsets of the object from the box y.

    Offsets are encoded as in :mod:`ebm_mmdet.models.box_coding`, so the object is at
    ``decode(δ(x, y, c), y)``. δ has one row for each output of f. It learns from the boxes y_k at
    which the objective evaluates f, whose residuals to the annotation y* are known, at the cost of
    one small product:

        L = mean_k |δ(x, y_k, c) - encode(y*, y_k)|_1 / σ     over the k with IoU(y_k, y*) ≥ min_iou

    The absolute error is robust, since its minimum is the median of what is possible. Boxes further
    away than ``min_iou`` are left out: no detection that counts misses by so much, and
    what is nearest to such a box is often another object.

    Args:
        in_features: width of the trunk.
        num_outputs: K, number of outputs of f.
        objective: that of the head.
        loss_weight: factor on L.
        min_iou: in [0, 1).
        target_std: σ, typical residual of a box that is trained on, a number or (4,). Outputs
            are multiplied by it, so that they have about unit spread. By default the spread of the
            objective's noise, or 0.1 if it has none. It is stored with the weights, whose unit it
            is.

    Raises:
        ValueError: a number is outside its range, or the objective does not evaluate f without
            differentiating it there.
    """

    std: Tensor

    def __init__(
        self,
        in_features: int,
        num_outputs: int,
        objective: object,
        loss_weight: float = 1.0,
        min_iou: float = 0.5,
        target_std: float | Sequence[float] | None = None,
        residual_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(objective, (DSMObjective, ScoreMatchingObjective)):
            raise ValueError(
                f"regression with {type(objective).__name__}, which needs no values of f but its "
                "derivatives; use NCEObjective, KLDISObjective, MLISObjective or MCMCObjective"
            )
        if not 0 <= min_iou < 1 or not 0 < loss_weight < float("inf"):
            raise ValueError(
                f"regression with min_iou={min_iou} and loss_weight={loss_weight}; expected "
                "min_iou in [0, 1) and a positive, finite loss_weight"
            )
        if target_std is None:
            sigmas = getattr(getattr(objective, "noise", None), "sigmas", None)
            target_std = USUAL_STD if sigmas is None else sigmas.square().mean(0).sqrt().tolist()
        std = torch.as_tensor(target_std, dtype=torch.float32, device="cpu")
        if std.dim() > 1 or std.numel() not in (1, 4) or not ((std > 0) & std.isfinite()).all():
            raise ValueError(
                f"regression with target_std={target_std}; expected a positive number, or 4"
            )
        self.loss_weight, self.min_iou = loss_weight, min_iou
        self.residual_std, self.noise = residual_std, getattr(objective, "noise", None)
        self.fc = Float32Linear(in_features, 4 * num_outputs)
        self.register_buffer("std", std.expand(4).clone())
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Features (R, C) of the trunk -> offsets (R, K, 4), float32 also under autocast."""
        return self.fc(x).float().unflatten(1, (-1, 4)) * self.std.float()

    def loss(
        self,
        found: Tensor,
        boxes: Tensor,
        truth: Tensor,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """L, averaged over the objects.

        Args:
            found: (N, S, 4) offsets that the head has found at S boxes around each of N objects.
            boxes: (N, S, 4) these boxes.
            truth: (N, 4) annotations.
            avg_factor: divisor in place of N.

        Returns:
            A scalar.
        """
        truth = truth.unsqueeze(1)
        near = paired_iou(boxes, truth) >= self.min_iou
        residual = encode_boxes(truth, boxes)
        error = (found - residual).abs() / self.std.float()
        if self.residual_std is None:
            weight = near / near.sum(1, keepdim=True).clamp(min=1)
        else:
            std = torch.as_tensor(self.residual_std).to(residual)
            log_p = -0.5 * (residual / std).square().sum(-1)
            log_q = self.noise.log_prob(encode_boxes(boxes, truth))
            weight = (log_p - log_q).masked_fill(~near, -torch.inf).softmax(1)
        return self.loss_weight * reduce_loss((weight * error.mean(-1)).sum(1), avg_factor=avg_factor)


class RegressingBoxLogDensity(BoxLogDensity):
    """A log-density of boxes that also says where the object is; see ``regress``."""

    def regress(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate f, and the regression's step, at encoded offsets.

        Args:
            y: (N, S, 4) offsets from ``reference``.

        Returns:
            f (N, S) float32, and steps (N, S, 4): the box at ``y + η step`` is the one at offsets
            ``η δ`` from the box at ``y``.
        """
        boxes = self.head.decode(y, self.reference[:, None, :])
        f, found = self.head.regress(self.feats, boxes, self.batch_index, self.labels)
        # Centres move in units of the box at y, which is exp(y_size) times the reference.
        return f, torch.cat([found[..., :2] * y[..., 2:].exp(), found[..., 2:]], dim=-1)


class TrainingBoxLogDensity(RegressingBoxLogDensity):
    """f for an objective; it keeps what the regression says at the boxes that f is asked for.

    Boxes at which f is differentiated (steps of a chain) are left out.
    """

    seen: list[tuple[Tensor, Tensor, Tensor]]
    """Offsets (n, S, 4), boxes (n, S, 4) and annotations (n, 4) of each call."""

    def __call__(self, offsets: Tensor) -> Tensor:
        if offsets.requires_grad or not torch.is_grad_enabled():
            return super().__call__(offsets)
        boxes = self.head.decode(offsets, self.reference[:, None, :])
        f, found = self.head.regress(self.feats, boxes, self.batch_index, self.labels)
        self.seen.append((found, boxes, self.reference))
        return f

    def select(self, index: Tensor) -> TrainingBoxLogDensity:
        """The same function for a subset of its targets, ``index`` (n,) int64."""
        selected = super().select(index)
        selected.seen = self.seen
        return selected


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU (...) of corresponding boxes (..., 4), shapes that broadcast; 0 without an area."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1) for boxes in (first, second)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=torch.finfo(shared.dtype).tiny)
