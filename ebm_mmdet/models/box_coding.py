"""The coordinates of box densities: offsets in R^4 from a reference box."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["change_reference", "decode_boxes", "encode_boxes"]

_MIN_SIZE = 1e-6
"""Smallest size (pixels) when encoding, because a logarithm needs a positive argument."""


def decode_boxes(offsets: Tensor, reference: Tensor) -> Tensor:
    r"""Boxes at given offsets from reference boxes; the inverse of :func:`encode_boxes`.

    With ``(cx0, cy0, w0, h0)`` the reference and ``u`` the offsets::

        cx = cx0 + u1 w0      w = w0 exp(u3)
        cy = cy0 + u2 h0      h = h0 exp(u4)

    evaluated as ``x1' = x1 + w0 (u1 - expm1(u3) / 2)`` and so on, so that ``u = 0`` returns the
    reference bit for bit.

    Args:
        offsets: encoded coordinates ``(u1, u2, u3, u4)``, shape ``(..., 4)``, without unit.
        reference: boxes ``(x1, y1, x2, y2)``, shape broadcastable to ``(..., 4)``, half open. A
            box without a positive width or height counts as one of size 0 along that axis, where
            offsets do not move it.

    Returns:
        Boxes ``(x1, y1, x2, y2)`` of shape ``(..., 4)`` in the units of ``reference``.

    Source: Gustafsson et al., ECCV 2020, sec. 4.1 (parameterisation), as offsets.
    """
    size = (reference[..., 2:] - reference[..., :2]).clamp(min=0)
    shift, growth = offsets[..., :2], 0.5 * torch.expm1(offsets[..., 2:])
    return torch.cat(
        (
            reference[..., :2] + size * (shift - growth),
            reference[..., 2:] + size * (shift + growth),
        ),
        dim=-1,
    )


def encode_boxes(boxes: Tensor, reference: Tensor) -> Tensor:
    r"""Offsets of boxes from reference boxes, the coordinates of every 2D density.

    ``u = ((cx - cx0) / w0, (cy - cy0) / h0, log(w / w0), log(h / h0))``, hence
    ``encode_boxes(r, r) = 0``.

    Args:
        boxes: ``(x1, y1, x2, y2)``, shape ``(..., 4)``, half open (no "+1" in widths).
        reference: shape broadcastable to that of ``boxes``.

    Returns:
        Offsets, shape ``(..., 4)``, without unit. Sizes under 1e-6 px count as 1e-6 px.
    """
    size0 = (reference[..., 2:] - reference[..., :2]).clamp(min=_MIN_SIZE)
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=_MIN_SIZE)
    # The shift of the centre is the mean shift of both sides, which avoids rounding cx and cx0.
    moved = 0.5 * ((boxes - reference)[..., :2] + (boxes - reference)[..., 2:])
    return torch.cat((moved / size0, torch.log(size / size0)), dim=-1)


def change_reference(covariance: Tensor, reference: Tensor, boxes: Tensor) -> Tensor:
    r"""Convert a covariance of encoded coordinates to another reference box.

    Coordinates relative to two references differ by a shift and a scale of the centre, hence, with
    ``(w0, h0)`` the old size and ``(w, h)`` the new one, exactly::

        C' = D C D,   D = diag(w0 / w, h0 / h, 1, 1)

    Args:
        covariance: ``(n, 4, 4)`` of offsets from ``reference``.
        reference: ``(n, 4)`` boxes ``(x1, y1, x2, y2)``.
        boxes: ``(n, 4)``, the new references. Sizes under 1e-6 px count as 1e-6 px.

    Returns:
        ``(n, 4, 4)`` of offsets from ``boxes``.
    """
    old = (reference[:, 2:] - reference[:, :2]).clamp(min=_MIN_SIZE)
    new = (boxes[:, 2:] - boxes[:, :2]).clamp(min=_MIN_SIZE)
    scale = torch.cat((old / new, torch.ones_like(old)), dim=1).to(covariance)
    return scale[:, :, None] * covariance * scale[:, None, :]
