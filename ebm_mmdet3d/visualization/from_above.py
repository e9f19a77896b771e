"""Points and boxes seen from above, x to the right and y upwards, in metres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from ebm_mmdet.visualization.style import AFTER_LINE, BEFORE, TRUTH

__all__ = ["add_bev_boxes", "footprint_corners", "show_points"]

_NIGHT = "#14171C"
_STYLES = {
    "truth": {"color": TRUTH, "linewidth": 1.0, "linestyle": (0, (3, 2))},
    "before": {"color": BEFORE, "linewidth": 1.2},
    "after": {"color": AFTER_LINE, "linewidth": 1.2},
}


def footprint_corners(boxes: np.ndarray) -> np.ndarray:
    """Corners (n, 4, 2) of footprints of boxes (n, 7): left and right of the front, right and left
    of the rear; metres.
    """
    along, across = np.array([0.5, 0.5, -0.5, -0.5]), np.array([0.5, -0.5, -0.5, 0.5])
    along, across = boxes[:, 3:4] * along, boxes[:, 4:5] * across
    cos, sin = np.cos(boxes[:, 6:7]), np.sin(boxes[:, 6:7])
    x, y = along * cos - across * sin, along * sin + across * cos
    return np.stack([x, y], axis=-1) + boxes[:, None, :2]


def show_points(axes: Axes, points: np.ndarray, window: Sequence[float], size: float) -> None:
    """Plot points (N, 3 or more), coloured by height, on a dark background.

    Args:
        axes: Where to draw.
        points: metres; z determines the brightness of a point.
        window: ``(x1, y1, x2, y2)`` to show.
        size: size of a point, in points squared.
    """
    x1, y1, x2, y2 = window
    inside = (points[:, 0] > x1) & (points[:, 0] < x2) & (points[:, 1] > y1) & (points[:, 1] < y2)
    x, y, z = points[inside, :3].T
    axes.scatter(x, y, c=z, s=size, cmap="bone", vmin=-3.2, vmax=0.6, linewidths=0, rasterized=True)
    axes.set(xlim=(x1, x2), ylim=(y1, y2), xticks=[], yticks=[], aspect="equal")
    axes.set_facecolor(_NIGHT)
    for spine in axes.spines.values():
        spine.set_visible(False)


def add_bev_boxes(axes: Axes, boxes: np.ndarray, kind: str) -> None:
    """Draw footprints of boxes (n, 7), with a line from the centre to the front.

    `kind` is ``"truth"``, ``"before"`` or ``"after"``.
    """
    style = _STYLES[kind]
    for box, corners in zip(boxes, footprint_corners(np.asarray(boxes, float).reshape(-1, 7))):
        axes.plot(*np.concatenate([corners, corners[:1]]).T, **style)
        axes.plot(*np.stack([box[:2], corners[:2].mean(0)]).T, **style)
