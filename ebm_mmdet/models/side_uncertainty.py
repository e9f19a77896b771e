"""Conversion between standard deviations of box sides and covariances of encoded coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "carry_side_std",
    "covariance_to_side_std",
    "side_lengths",
    "side_std_to_covariance",
]

_MIN_SIZE = 1.0
"""Smallest size (pixels) of a box, because relative to a sliver uncertainties are unbounded."""


def side_lengths(boxes: Tensor) -> Tensor:
    """(n, 4) float32 width, height, width, height of boxes; a side under 1 px counts as 1 px."""
    size = (boxes[:, 2:] - boxes[:, :2]).float().clamp(min=_MIN_SIZE)
    return torch.cat((size, size), dim=1)


def side_std_to_covariance(boxes: Tensor, side_std: Tensor) -> Tensor:
    r"""Covariance in encoded coordinates of a box whose four sides have independent errors.

    To first order a shift of the sides moves ``u = (cx/w, cy/h, log w, log h)`` by

        du1 = (dx1 + dx2) / 2w,   du3 = (dx2 - dx1) / w,   and y with h likewise,

    hence ``C11 = (σ1² + σ2²) / 4w²``, ``C33 = 4 C11`` and ``C13 = (σ2² - σ1²) / 2w²``.
    :func:`covariance_to_side_std` is the inverse.

    Args:
        boxes: (n, 4) ``(x1, y1, x2, y2)``. A side under 1 px counts as 1 px.
        side_std: (n, 4) standard deviations of x1, y1, x2, y2, in the unit of ``boxes``.

    Returns:
        (n, 4, 4) float32, symmetric, of encoded coordinates relative to the box itself.
    """
    low, high = (side_std.float() / side_lengths(boxes)).square().chunk(2, dim=1)
    covariance = low.new_zeros(len(low), 4, 4)
    for axis in (0, 1):
        total, difference = (low + high)[:, axis], (high - low)[:, axis]
        covariance[:, axis, axis] = 0.25 * total
        covariance[:, axis + 2, axis + 2] = total
        covariance[:, axis, axis + 2] = covariance[:, axis + 2, axis] = 0.5 * difference
    return covariance


def covariance_to_side_std(boxes: Tensor, covariance: Tensor) -> Tensor:
    r"""Standard deviations of the four sides of a box, from its covariance in encoded coordinates.

    To first order ``dx1 = w (du1 - du3 / 2)`` and ``dx2 = w (du1 + du3 / 2)``, y with h likewise:

        σ1² = w² (C11 - C13 + C33 / 4),   σ2² = w² (C11 + C13 + C33 / 4)

    The sides need not be independent: these are the marginals of
    :func:`~ebm_mmdet.evaluation.gaussian_scores.side_covariance`.

    Args:
        boxes: (n, 4) ``(x1, y1, x2, y2)``. A side under 1 px counts as 1 px.
        covariance: (n, 4, 4) of encoded coordinates relative to the box itself.

    Returns:
        (n, 4) float32, of x1, y1, x2, y2, in the unit of ``boxes``.
    """
    variance = covariance.float().diagonal(dim1=1, dim2=2)
    both = variance[:, :2] + 0.25 * variance[:, 2:]
    shared = covariance.float().diagonal(offset=2, dim1=1, dim2=2)
    # Rounding may give a slightly negative value if a side is known far better than its opposite.
    sides = torch.cat((both - shared, both + shared), dim=1).clamp(min=0)
    return side_lengths(boxes) * sides.sqrt()


def carry_side_std(covariance: Tensor, boxes: Tensor, others: Tensor) -> Tensor:
    r"""The covariance of the same errors of sides, in pixels, relative to other boxes.

    For boxes whose sides were moved, such as to the border of an image, while nothing more became
    known. With ``(w, h)`` the size of a box and ``(w', h')`` that of the other one::

        C' = S C S,   S = diag(w / w', h / h', w / w', h / h')

    so that :func:`covariance_to_side_std` gives the same numbers. This is not
    :func:`~ebm_mmdet.models.box_coding.change_reference`, which keeps the boxes that a covariance
    speaks of, and therefore the errors of log-sizes.

    Args:
        covariance: (n, 4, 4) of encoded coordinates relative to ``boxes``.
        boxes: (n, 4) ``(x1, y1, x2, y2)``. A side under 1 px counts as 1 px.
        others: (n, 4), likewise, in the same unit.

    Returns:
        (n, 4, 4) relative to ``others``; every bit is kept where the sizes are equal.
    """
    ratio = (side_lengths(boxes) / side_lengths(others)).to(covariance)
    return ratio[:, :, None] * covariance * ratio[:, None, :]
