"""The usual settings of an energy head in 3D, with a comment for each number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ebm_mmdet.apis.config_text import Noted
from ebm_mmdet.energy import fit_residual_std

from ..inspection import Inspection3D

__all__ = ["FEWEST_BOXES", "bev_head", "spread_3d"]

FEWEST_BOXES = 20
"""With fewer residuals their spread is not known."""
PAPERS = (0.125, 0.125, 0.0625, 0.0625, 0.0625, 0.0625, 0.03125)
"""The middle one of the paper's three spreads of the noise, of cars; metres and radians."""
SHARES = (0.4, 0.8, 1.6)
"""Of the noise, in units of the spread of the detector's residuals."""
LEAST = (0.03,) * 6 + (0.01,)
MOST = (0.4,) * 6 + (0.2,)
"""Spreads below miss by less than annotations do; above are boxes that match by chance."""
STEP = 0.2
"""Of a step, in squares of the smallest spread of the noise; longer ones drift on real heads."""


def spread_3d(residuals: Tensor) -> list[float] | None:
    """How far a detector's boxes lie from the objects, in each coordinate.

    The standard deviation about zero with tails clipped
    (:func:`~ebm_mmdet.energy.fit_residual_std`), within limits. Along and across are one number,
    because the encoded coordinates x and y do not turn with the box.

    Args:
        residuals: (n, 7) along, across, z, l, w, h, yaw, in metres and radians.

    Returns:
        Seven numbers for ``(x, y, z, l, w, h, yaw)``; None from fewer than 20 boxes.

    Raises:
        ValueError: the shape is not (n, 7).
    """
    if residuals.dim() != 2 or residuals.shape[1] != 7:
        raise ValueError(f"residuals have shape {tuple(residuals.shape)}; expected (n, 7)")
    residuals = residuals[residuals.isfinite().all(1)]
    if len(residuals) < FEWEST_BOXES:
        return None
    # Where most boxes are those of the annotations, bit for bit, the spread would be zero.
    std = fit_residual_std(residuals.abs().clamp(min=1e-9))
    std[:2] = std[:2].square().mean().sqrt()
    return std.clamp(torch.tensor(LEAST), torch.tensor(MOST)).tolist()


def bev_head(
    look: Inspection3D,
    residuals: Tensor | None = None,
    bottom_and_height: Sequence[float] | None = None,
) -> dict:
    """``feature_source``, ``energy_head`` and ``refiner`` of an ``EBM3DDetector``.

    Args:
        look: what the detector looks like.
        residuals: (n, 7) of its boxes, for noise, steps and a regression; the paper's noise and
            steps, and no regression, without them.
        bottom_and_height: usual z at the bottom and height of an object, metres; where they are
            known, the head sees both in units of the noise, and the heights of the points.
    """
    spread = None if residuals is None else spread_3d(residuals)
    if spread is None:
        sigmas = [[factor * each for each in PAPERS] for factor in (0.5, 1.0, 2.0)]
        where = "the paper's, of x, y, z, l, w, h, yaw in metres and radians, for cars"
    else:
        sigmas = [[_two(share * each) for each in spread] for share in SHARES]
        where = (
            f"{', '.join(f'{each:g}' for each in SHARES)} times the spread of the detector's "
            f"errors in x, y, z, l, w, h, yaw, on {len(residuals)} boxes"
        )
    steps = [_two(STEP * each**2) for each in sigmas[0]]
    chosen = look.chosen
    head = {
        "type": "EBM3DRefineHead",
        "num_classes": Noted(look.num_classes, f"as in {look.detector}"),
        "in_channels": Noted(
            chosen.channels, f"of {chosen.module}; `python -m ebm_mmdet inspect` lists all maps"
        ),
        "origin": Noted(list(look.origin), "lower limits of the point cloud range, metres"),
        "cell_size": Noted(chosen.cell_size, "metres: the range over the cells of the map"),
        "pixel_offset": Noted(
            round(look.pixel_offset or 0.0, 4), "half a voxel, in cells (docs/lidar.md)"
        ),
        **({"feature_level": chosen.index} if chosen.index else {}),
        "standardize": Noted(True, "frozen features may have any scale"),
        "fc_channels": Noted([256, 256], "a quarter of the paper's: less to learn by heart"),
        "objective": {
            "type": "NCEObjective",
            "num_noise": Noted(63, "boxes from the noise per object; half of the paper's"),
            "beta": Noted(0.0, "NCE, as in the paper; 0.1 where annotations are inaccurate"),
            "noise": {"type": "GaussianMixtureNoise", "sigmas": Noted(sigmas, where)},
        },
    }
    if bottom_and_height is not None:
        head["point_heights"] = Noted(True, "of roof and ground, which the map hardly tells")
        head["branch_center"] = Noted(
            [round(each, 2) for each in bottom_and_height],
            "usual bottom and height of the objects, metres",
        )
        head["branch_scale"] = Noted(
            [sigmas[-1][2], sigmas[-1][5]],
            "the widest noise of both; in metres f would hardly see it",
        )
    if spread is not None:
        head["regression"] = Noted(
            {"residual_std": [_two(each) for each in spread]},
            "says where the object is, for detections as far from it as these are",
        )
    return {
        "feature_source": Noted(chosen.module, "the module that gives the map"),
        "energy_head": head,
        "refiner": {
            "type": "GradientAscentRefiner",
            "step_size": Noted(steps, "a fifth of the squares of the smallest sigmas"),
            "num_steps": Noted(10, "as in the paper; each costs a pass through the head"),
            "decay": Noted(0.5, "of the step size, after a step that does not climb"),
        },
    }


def _two(value: float) -> float:
    """Two digits, as one writes a number that is measured to a tenth."""
    return float(f"{value:.2g}")
