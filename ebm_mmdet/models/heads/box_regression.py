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

NEAR = 0.5
"""IoU from which a box counts: no detection that counts is further from its object, and what is
nearest to a box that is further away is often another object."""
USUAL_STD = 0.1
"""Spread of residuals where neither they nor the objective's noise are known; R-CNN's box coder."""


class BoxRegression(nn.Module):
    r"""δ(x, y, c) ∈ R^D, a linear output of the trunk: offsets of the object from the box y.

    In images, offsets are encoded as in :mod:`ebm_mmdet.models.box_coding`, so the object is at
    ``decode(δ(x, y, c), y)``; a subclass for other boxes defines :attr:`dim`, :meth:`residual`,
    :meth:`encode`, :meth:`is_near` and :meth:`step`. δ has one row for each output of f. It learns
    from the boxes y_k at which the objective evaluates f, whose residuals r_k = encode(y*, y_k) to
    the annotation y* are known, at the cost of one small product:

        L = Σ_k w_k Σ_d |δ_d(x, y_k, c) - r_kd| / σ_d,   w_k ∝ N(r_k; 0, σ²) / q(y_k)

    over the k with IoU(y_k, y*) ≥ 0.5; w sums to one. σ are the standard deviations of the
    detector's residuals, and q is the objective's noise. With these weights the boxes count as if
    they had been drawn as the detector draws them, so that δ is the median of where the object is
    for such a detection, and moves the box by as much less as the features are unsure. (With equal
    weights, for a detector as inaccurate as the noise, the full step of a precise detector loses AP
    where half of it gains.) The absolute error makes it robust to what is not near the detection.

    Args:
        in_features: width of the trunk.
        num_outputs: K, number of outputs of f.
        objective: that of the head.
        loss_weight: factor on L.
        residual_std: σ (D,), as ``tools/analysis_tools/fit_residual_prior.py`` prints it. None: all
            w_k are equal, and σ is the spread of the noise, or 0.1 if there is none. δ is σ times
            the output of the layer, and σ is stored with the weights, whose unit it is.

    Raises:
        ValueError: a number is outside its range, the objective does not evaluate f without
            differentiating it there, or it has no noise, which ``residual_std`` needs.
    """

    dim = 4
    """D, number of coordinates of a box."""
    std: Tensor

    def __init__(
        self,
        in_features: int,
        num_outputs: int,
        objective: object,
        loss_weight: float = 1.0,
        residual_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(objective, (DSMObjective, ScoreMatchingObjective)):
            raise ValueError(
                f"regression with {type(objective).__name__}, which needs no values of f but its "
                "derivatives; use NCEObjective, KLDISObjective, MLISObjective or MCMCObjective"
            )
        if not 0 < loss_weight < float("inf"):
            raise ValueError(f"regression with loss_weight={loss_weight}; give a positive number")
        noise = getattr(objective, "noise", None)
        if residual_std is not None and noise is None:
            raise ValueError(
                f"regression with residual_std={residual_std}, but {type(objective).__name__} "
                "draws no boxes from a noise of known density; leave residual_std out"
            )
        std = residual_std
        if std is None:
            std = [USUAL_STD] * self.dim if noise is None else noise.sigmas.square().mean(0).sqrt()
        std = torch.as_tensor(std, dtype=torch.float32, device="cpu")
        if std.shape != (self.dim,) or not ((std > 0) & std.isfinite()).all():
            raise ValueError(
                f"regression with residual_std={residual_std}; expected {self.dim} positive "
                "numbers, which tools/analysis_tools/fit_residual_prior.py prints for images"
            )
        self.loss_weight = loss_weight
        # Of residuals like the detector's, or None: all boxes count equally.
        self.noise = None if residual_std is None else noise
        self.fc = Float32Linear(in_features, self.dim * num_outputs)
        self.register_buffer("std", std.clone())
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Features (R, C) of the trunk -> offsets (R, K, D), float32 also under autocast."""
        return self.fc(x).float().unflatten(1, (-1, self.dim)) * self.std.float()

    def loss(
        self,
        found: Tensor,
        boxes: Tensor,
        truth: Tensor,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        """L, averaged over the objects.

        Args:
            found: (N, S, D) offsets that the head has found at S boxes around each of N objects.
            boxes: (N, S, D) these boxes.
            truth: (N, D) annotations.
            avg_factor: divisor in place of N.

        Returns:
            A scalar.
        """
        residual = self.residual(truth.unsqueeze(1), boxes)
        error = ((found - residual).abs() / self.std.float()).sum(-1)
        error = (self.weights(boxes, truth.unsqueeze(1), residual) * error).sum(1)
        return self.loss_weight * reduce_loss(error, avg_factor=avg_factor)

    def weights(self, boxes: Tensor, truth: Tensor, residual: Tensor) -> Tensor:
        """(N, S) w of boxes (N, S, D) around truth (N, 1, D); zeros if none is near."""
        near = self.is_near(boxes, truth)
        ratio = torch.zeros_like(residual[..., 0])
        if self.noise is not None:
            log_p = -0.5 * (residual / self.std.float()).square().sum(-1)
            ratio = log_p - self.noise.log_prob(self.encode(boxes, truth))
        # Filled with a finite number, whose exponential is 0 beside any other one.
        ratio = ratio.masked_fill(~near, torch.finfo(ratio.dtype).min)
        return ratio.softmax(1) * near

    def residual(self, truth: Tensor, boxes: Tensor) -> Tensor:
        """Offsets (..., D) of annotations (..., D) from boxes (..., D), as δ gives them."""
        return encode_boxes(truth, boxes)

    def encode(self, boxes: Tensor, truth: Tensor) -> Tensor:
        """Offsets (..., D) of boxes from annotations, as the objective's noise draws them."""
        return encode_boxes(boxes, truth)

    def is_near(self, boxes: Tensor, truth: Tensor) -> Tensor:
        """(...) bool: boxes (..., D) that count for their annotation (..., D)."""
        return paired_iou(boxes, truth) >= NEAR

    def step(self, found: Tensor, y: Tensor, boxes: Tensor) -> Tensor:
        """The direction s in the coordinates of f for which y + η s is at η δ from the box at y.

        Args:
            found: (N, S, D) δ.
            y: (N, S, D) encoded offsets of the boxes from their references.
            boxes: (N, S, D) the boxes themselves.
        """
        # Centres move in units of the box at y, which is exp(y_size) times the reference.
        return torch.cat([found[..., :2] * y[..., 2:].exp(), found[..., 2:]], dim=-1)


class RegressingBoxLogDensity(BoxLogDensity):
    """A log-density of boxes that also says where the object is; see ``regress``."""

    def regress(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate f, and the regression's step, at encoded offsets.

        Args:
            y: (N, S, D) offsets from ``reference``.

        Returns:
            f (N, S) float32, and steps (N, S, D): the box at ``y + η step`` is the one at offsets
            ``η δ`` from the box at ``y``.
        """
        boxes = self.head.decode(y, self.reference[:, None, :])
        f, found = self.head.regress(self.feats, boxes, self.batch_index, self.labels)
        return f, self.head.regression.step(found, y, boxes)


class TrainingBoxLogDensity(RegressingBoxLogDensity):
    """f for an objective; it keeps what the regression says at the boxes that f is asked for.

    Boxes at which f is differentiated (steps of a chain) are left out.
    """

    seen: list[tuple[Tensor, Tensor, Tensor]]
    """Offsets (n, S, D), boxes (n, S, D) and annotations (n, D) of each call."""

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
