"""Choose what to show of a run, and draw it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ebm_mmdet.models import encode_boxes
from ebm_mmdet.visualization import save_figure

from ..pictures import (
    draw_before_after,
    draw_refinement_paths,
    plot_ap_vs_steps,
    plot_density_slices,
)
from .evaluate import METRICS_SHOWN, Climb

_GRID = 49
_CHUNK = 256  # points scored at once


def typical_gains(climbs: Sequence[Climb], count: int) -> list[Climb]:
    """Choose objects evenly among the better half of all gains in IoU, best first.

    A picture of the very best gain would promise too much, one of no gain would show nothing.
    """
    gains = [after - before for before, after in (climb.iou() for climb in climbs)]
    order = np.argsort(gains)[::-1][: max(count, len(climbs) // 2)]
    chosen = order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]
    return [climbs[i] for i in chosen]


def draw_boxes_of_images(climbs: Sequence[Climb], path: Path, count: int = 4) -> None:
    """Write detections before and after, for the images with the most objects found."""
    by_image: dict[int, list[Climb]] = {}
    for climb in climbs:
        by_image.setdefault(climb.number, []).append(climb)
    chosen = sorted(by_image.values(), key=len, reverse=True)[:count]
    figure = draw_before_after(
        [found[0].image for found in chosen],
        [np.stack([climb.truth for climb in found]) for found in chosen],
        [np.stack([climb.path[0] for climb in found]) for found in chosen],
        [np.stack([climb.path[-1] for climb in found]) for found in chosen],
    )
    save_figure(figure, path)


def draw_paths(climbs: Sequence[Climb], path: Path, count: int = 8) -> None:
    """Write the way uphill of a few boxes."""
    chosen = typical_gains(climbs, count)
    figure = draw_refinement_paths(
        [climb.image for climb in chosen],
        [climb.path for climb in chosen],
        [climb.truth for climb in chosen],
    )
    save_figure(figure, path)


def draw_density(climb: Climb, path: Path) -> None:
    """Write the density over one box's centre and over its size."""
    offsets = climb.offsets()
    truth = encode_boxes(torch.from_numpy(climb.truth[None]), torch.from_numpy(climb.path[:1]))
    truth = truth[0].numpy()
    slices = []
    # Centre, then size, of which pooled features say less: its hill is broader.
    for axes, margin in ((slice(0, 2), 0.06), (slice(2, 4), 0.25)):
        ways = np.abs(np.vstack([offsets, truth]))[:, axes]
        grid = np.linspace(-1, 1, _GRID) * (1.2 * ways.max() + margin)
        points = np.tile(offsets[-1], (_GRID, _GRID, 1)).astype(np.float32)
        points[..., axes] = np.stack(np.meshgrid(grid, grid), axis=-1)
        scored = torch.from_numpy(points).flatten(0, 1).split(_CHUNK)
        log_density = torch.cat([climb.log_density(part) for part in scored])
        slices += [grid, log_density.numpy().reshape(_GRID, _GRID)]
    figure = plot_density_slices(climb.image, climb.path[0], offsets, truth, *slices)
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
    """Write every picture of one seed that shows boxes; nothing if nothing was detected."""
    if not climbs:
        return
    draw_boxes_of_images(climbs, folder / "before_after.png")
    draw_paths(climbs, folder / "paths.png")
    chosen = typical_gains(climbs, 5)
    draw_density(chosen[min(1, len(chosen) - 1)], folder / "density.png")
