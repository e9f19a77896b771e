"""Select and draw pictures of a run in 3D."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ebm_mmdet.visualization import save_figure
from ebm_mmdet3d.datasets.kitti_geometry import wrap_angle

from ...pictures import plot_rotation_scans, plot_steps_3d
from ..climb import Climb, most_found, typical_gains
from .bev import draw_bev_boxes, draw_bev_scenes
from .evaluate import METRICS_SHOWN

__all__ = ["draw_all", "draw_steps", "rotation_scan"]

_ANGLES = np.linspace(-np.pi, np.pi, 361)


def draw_all(climbs: Sequence[Climb], window: Sequence[float], folder: Path) -> None:
    """Write all pictures of boxes of one seed; none if there are no detections.

    Args:
        climbs: Result of `trace_steps`.
        window: ``(x1, y1, x2, y2)`` of a whole scene, metres.
        folder: Output folder.
    """
    if not climbs:
        return
    save_figure(_scenes(climbs, window), folder / "bev_scenes.png")
    chosen = typical_gains(climbs, 8)
    figure = draw_bev_boxes(
        [climb.scene for climb in chosen],
        [climb.path for climb in chosen],
        [climb.truth for climb in chosen],
        [(climb.iou[0], climb.iou[-1]) for climb in chosen],
    )
    save_figure(figure, folder / "bev_boxes.png")
    turned = typical_gains(climbs, 3)
    figure = plot_rotation_scans(
        _ANGLES,
        [rotation_scan(climb, _ANGLES) for climb in turned],
        [float(wrap_angle(climb.truth[6] - climb.path[-1, 6])) for climb in turned],
    )
    save_figure(figure, folder / "rotation.png")


def rotation_scan(climb: Climb, angles: np.ndarray) -> np.ndarray:
    """Return f (R,) of the refined box rotated by ``angles`` (R,) radians, all else fixed."""
    offsets = np.tile(climb.path[-1] - climb.path[0], (len(angles), 1))
    offsets[:, 6] += angles
    return climb.log_density(torch.from_numpy(offsets).float()).numpy()


def _scenes(climbs: Sequence[Climb], window: Sequence[float], count: int = 3):
    """The frames with the largest numbers of found objects."""
    chosen = most_found(climbs, count)
    overlaps = [np.stack([climb.iou for climb in found]).mean(0) for found in chosen]
    return draw_bev_scenes(
        [found[0].scene for found in chosen],
        [np.stack([climb.truth for climb in found]) for found in chosen],
        [np.stack([climb.path[0] for climb in found]) for found in chosen],
        [np.stack([climb.path[-1] for climb in found]) for found in chosen],
        [(mean[0], mean[-1]) for mean in overlaps],
        window,
    )


def draw_steps(results: Sequence[dict], path: Path) -> None:
    """Write precision and cost against the number of steps; `results` has one entry per seed."""
    precision: dict[str, dict[str, np.ndarray]] = {}
    for name, (metric, threshold) in METRICS_SHOWN.items():
        series = np.array([[at[name] for at in result["steps"]] for result in results])
        precision.setdefault(f"{metric} AP", {})[f"{threshold:.2f}"] = series
    milliseconds = np.array([result["milliseconds"] for result in results])
    first = results[0]
    figure = plot_steps_3d(first["at"], precision, milliseconds, first["num_steps"])
    save_figure(figure, path)
