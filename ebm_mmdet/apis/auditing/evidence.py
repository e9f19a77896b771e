"""What f says about a box: how much likelier the best box nearby is, and which side is off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...energy import gradient_ascent
from ...models.box_coding import decode_boxes, encode_boxes
from ...models.heads import EBMBBoxHead

__all__ = ["NUM_STEPS", "Evidence", "box_evidence", "usual_step_size"]

NUM_STEPS = 30
"""Steps of the climb. Ten stop before the mode where an annotation is far off."""
BOXES_AT_ONCE = 100
_HALF = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
SIDE_GRID = (*(-x for x in reversed(_HALF)), 0.0, *_HALF)
"""Shifts of a side in units of the box's size along its axis, on which its spread is computed."""


class Evidence(NamedTuple):
    """Of n boxes, in the pixels in which they were given; sides are x1, y1, x2, y2."""

    proposal: Tensor
    """(n, 4) the mode m that a climb from the box y reaches, inside the image."""
    log_ratio: Tensor
    """(n,) log p(m) / p(y) = f(m) - f(y), not negative; +inf where f(y) is -inf."""
    side_shift: Tensor
    """(n, 4) m - y in pixels."""
    side_spread: Tensor
    """(n, 4) root mean square of the side about m in pixels, the other sides at m:
    ``∫ t² p(m + t e) dt / ∫ p(m + t e) dt`` over a third of the box's size each way."""
    side_evidence: Tensor
    """(n, 4) f(m) - f(m with this side as in y): the log-ratio of the side alone."""


def usual_step_size(head: EBMBBoxHead) -> float:
    """The square of the head's narrowest noise, about the variance that f can tell apart.

    A step λ∇f reaches the mode of a Gaussian at once if λ is its variance; longer steps are
    rejected and halved, so too large a λ costs some steps and no accuracy.
    """
    noise = getattr(head.objective, "noise", None)
    sigmas = torch.as_tensor(getattr(noise, "sigmas", 0.05), dtype=torch.float64)
    return float(sigmas.min()) ** 2


@torch.no_grad()
def box_evidence(
    head: EBMBBoxHead,
    feats: Sequence[Tensor],
    boxes: Tensor,
    labels: Tensor,
    limits: Tensor,
    num_steps: int = NUM_STEPS,
    step_size: float | None = None,
) -> Evidence:
    """Climb from each box of an image, and look along each side of where the climb ends.

    A box partly outside the image is cut to it before the climb, since no object is drawn outside;
    y stays as it is.

    Args:
        head: the energy head.
        feats: what its ``prepare`` returned for one image.
        boxes: (n, 4) ``(x1, y1, x2, y2)`` in pixels of the network's input.
        labels: (n,) classes.
        limits: (2,) width and height of the image in these pixels.
        num_steps: of the climb.
        step_size: of the climb; by default :func:`usual_step_size`.
    """
    parts = [
        _some(head, feats, box, label, limits, num_steps, step_size or usual_step_size(head))
        for box, label in zip(boxes.split(BOXES_AT_ONCE), labels.split(BOXES_AT_ONCE))
    ]
    if len(parts) == 1:
        return parts[0]
    return Evidence(*(torch.cat(each) for each in zip(*parts)))


def _some(
    head: EBMBBoxHead,
    feats: Sequence[Tensor],
    boxes: Tensor,
    labels: Tensor,
    limits: Tensor,
    num_steps: int,
    step_size: float,
) -> Evidence:
    index = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    fn = head.log_density_fn(feats, boxes, index, labels)
    border = torch.cat([limits, limits]).to(boxes)

    def inside(offsets: Tensor) -> Tensor:
        reference = fn.reference[:, None, :]
        decoded = decode_boxes(offsets, reference)
        clipped = torch.minimum(decoded.clamp(min=0), border)
        # Encoding what was not clipped would round it, and the climb would not end.
        return torch.where(
            (clipped == decoded).all(-1, keepdim=True), offsets, encode_boxes(clipped, reference)
        )

    start = inside(torch.zeros_like(fn.reference)[:, None])[:, 0]
    before = head.evaluate(fn.feats, fn.reference[:, None], index, labels)[:, 0]
    found = gradient_ascent(fn, start, step_size, num_steps, project=inside)
    mode = decode_boxes(found.y, fn.reference)
    shift = mode - fn.reference

    size = (mode[:, 2:] - mode[:, :2]).clamp(min=1e-6).repeat(1, 2)
    grid = torch.tensor(SIDE_GRID, device=boxes.device)
    sides = torch.eye(4, device=boxes.device)
    moves = size[:, :, None] * grid  # (n, 4, G)
    moves = torch.cat([moves, -shift[:, :, None]], 2)  # and the side as in the annotation
    points = mode[:, None, None, :] + moves[..., None] * sides[None, :, None, :]
    f = head.evaluate(fn.feats, points.flatten(1, 2), index, labels).unflatten(1, (4, -1))
    drop = found.log_density[:, None] - f[..., -1]
    log_weight = _trapezoid(grid).log() + f[..., :-1]
    probability = log_weight.softmax(-1)
    spread = size * (probability * grid.square()).sum(-1).sqrt()
    return Evidence(
        mode,
        (found.log_density - before).clamp(min=0),
        shift,
        spread,
        torch.where(shift == 0, 0.0, drop),
    )


def _trapezoid(grid: Tensor) -> Tensor:
    """Weights of the trapezoid rule at ascending points (G,)."""
    gaps = grid.diff()
    return torch.cat([gaps[:1], gaps[:-1] + gaps[1:], gaps[-1:]]) / 2
