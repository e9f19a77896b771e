"""How far a detector's boxes lie from the objects, which says how wide the noise should be."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..energy import fit_residual_std

__all__ = ["ResidualSpread", "residual_spread"]

FEWEST_BOXES = 20
"""With fewer residuals the spread is not known to a tenth of its value."""
LEAST, MOST = 0.02, 0.15
"""Boxes that miss by less are as exact as annotations; by more, they match at IoU 0.5 by chance."""


class ResidualSpread(NamedTuple):
    """The spread of a detector's residuals, one number for all coordinates."""

    value: float
    """Geometric mean over the encoded coordinates, in units of the box's size."""
    boxes: int
    """Number of boxes that it was measured on."""
    std: tuple[float, ...] = ()
    """Of each encoded coordinate."""


def residual_spread(residuals: Tensor) -> ResidualSpread | None:
    """The spread of residuals, truth minus detection in encoded coordinates.

    In each coordinate it is the standard deviation about zero with tails clipped at three robust
    standard deviations (:func:`~ebm_mmdet.energy.fit_residual_std`), but at least 0.02 and at most
    0.15. Centres miss by less than sizes; one number for both, the geometric mean, keeps the noise
    and the steps equal in all coordinates.

    Args:
        residuals: (n, 4), of :func:`~ebm_mmdet.apis.matched_residuals` or ``detector_residuals``.
            Rows with a value that is not finite are left out.

    Returns:
        The spread; None from fewer than 20 boxes.

    Raises:
        ValueError: the shape is not (n, 4).
    """
    if residuals.dim() != 2 or residuals.shape[1] != 4:
        raise ValueError(
            f"residuals have shape {tuple(residuals.shape)}; expected (n, 4), as from "
            "ebm_mmdet.apis.detector_residuals"
        )
    residuals = residuals[residuals.isfinite().all(1)].double()
    if len(residuals) < FEWEST_BOXES:
        return None
    # Where most boxes are those of the annotations, bit for bit, the spread would be zero.
    std = fit_residual_std(residuals.abs().clamp(min=1e-9)).clamp(LEAST, MOST)
    return ResidualSpread(float(std.log().mean().exp()), len(residuals), tuple(std.tolist()))
