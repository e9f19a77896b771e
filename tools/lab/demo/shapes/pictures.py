"""Select and draw pictures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ebm_mmdet.models import encode_boxes
from ebm_mmdet.visualization import save_figure

from ...pictures import (
    draw_before_after,
    draw_refinement_paths,
    plot_ap_vs_steps,
    plot_density_slices,
)
from ..climb import Climb, most_found, typical_gains
from .evaluate import METRICS_SHOWN

_GRID = 49
_CHUNK = 256  # points evaluated at once


def draw_boxes_of_images(climbs: Sequence[Climb], path: Path, count: int = 4) -> None:
    """Draw detections before and after, for the images with most found objects."""
    chosen = most_found(climbs, count)
    figure = draw_before_after(
        [found[0].scene for found in chosen],
        [np.stack([climb.truth for climb in found]) for found in chosen],
        [np.stack([climb.path[0] for climb in found]) for found in chosen],
        [np.stack([climb.path[-1] for climb in found]) for found in chosen],
    )
    save_figure(figure, path)


def draw_paths(climbs: Sequence[Climb], path: Path, count: int = 8) -> None:
    """Draw the refinement paths of a few boxes."""
    chosen = typical_gains(climbs, count)
    figure = draw_refinement_paths(
        [climb.scene for climb in chosen],
        [climb.path for climb in chosen],
        [climb.truth for climb in chosen],
    )
    save_figure(figure, path)


def draw_density(climb: Climb, path: Path) -> None:
    """Draw the density over the centre of one box and over its size."""
    boxes = torch.from_numpy(np.vstack([climb.path, climb.truth]))
    encoded = encode_boxes(boxes, boxes[:1]).numpy()
    offsets, truth = encoded[:-1], encoded[-1]
    slices = []
    # Centre, then size, which pooled features determine less, so its peak is broader.
    for axes, margin in ((slice(0, 2), 0.06), (slice(2, 4), 0.25)):
        ways = np.abs(np.vstack([offsets, truth]))[:, axes]
        grid = np.linspace(-1, 1, _GRID) * (1.2 * ways.max() + margin)
        points = np.tile(offsets[-1], (_GRID, _GRID, 1)).astype(np.float32)
        points[..., axes] = np.stack(np.meshgrid(grid, grid), axis=-1)
        scored = torch.from_numpy(points).flatten(0, 1).split(_CHUNK)
        log_density = torch.cat([climb.log_density(part) for part in scored])
        slices += [grid, log_density.numpy().reshape(_GRID, _GRID)]
    figure = plot_density_slices(climb.scene, climb.path[0], offsets, truth, *slices)
    save_figure(figure, path)


def draw_steps(
    steps: Sequence[int], per_seed: Sequence[Sequence[dict]], used: int, path: Path
) -> None:
    """Write precision against the number of steps; `per_seed` holds metrics for each step."""
    values = {
        name: np.array([[at_step[name] for at_step in seed] for seed in per_seed])
        for name in METRICS_SHOWN
        if name.startswith("AP")
    }
    save_figure(plot_ap_vs_steps(steps, values, used), path)


def draw_all(climbs: Sequence[Climb], folder: Path) -> None:
    """Write all pictures of boxes of one seed; none if there are no detections."""
    if not climbs:
        return
    draw_boxes_of_images(climbs, folder / "before_after.png")
    draw_paths(climbs, folder / "paths.png")
    chosen = typical_gains(climbs, 5)
    draw_density(chosen[min(1, len(chosen) - 1)], folder / "density.png")
