"""Pictures of points and boxes from above, x to the right and y upwards, in metres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ebm_mmdet.visualization.style import GREY, box_legend, caption, new_figure, panel_grid
from ebm_mmdet3d.visualization.from_above import add_bev_boxes, show_points

__all__ = ["draw_bev_boxes", "draw_bev_scenes"]

_CLOSE = 7.5  # metres of a panel around one box


def draw_bev_scenes(
    points: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
    iou: Sequence[tuple[float, float]],
    window: Sequence[float],
) -> Figure:
    """Draw scenes in two rows: the detector's boxes above, the refined ones below.

    Args:
        points: Per scene (N, 3 or more), metres.
        truth: Per scene true boxes (n, 7) ``(x, y, z, l, w, h, yaw)``.
        before: Per scene (m, 7), the detector's boxes.
        after: Per scene (m, 7), the same boxes, refined.
        iou: Per scene the mean 3D IoU before and after, printed under the panels.
        window: ``(x1, y1, x2, y2)`` to show, metres.

    Returns:
        The figure; write it with `save_figure`.

    Raises:
        ValueError: There is no scene.
    """
    if not points:
        raise ValueError("draw_bev_scenes needs at least one scene, got none")
    figure = new_figure(3.6 * len(points), 7.6)
    panels = figure.subplots(2, len(points), squeeze=False)
    rows = ((before, "before", "detector", 0), (after, "after", "refined", 1))
    for axes_row, (boxes_of, kind, name, end) in zip(panels, rows):
        for axes, cloud, true, boxes, means in zip(axes_row, points, truth, boxes_of, iou):
            show_points(axes, cloud, window, size=0.7)
            add_bev_boxes(axes, true, "truth")
            add_bev_boxes(axes, boxes, kind)
            axes.set_xlabel(f"{name}: mean 3D IoU {means[end]:.3f}", fontsize=10)
    caption(figure, "From above: detections before and after climbing the learned density")
    box_legend(figure, ("truth", "before", "after"))
    return figure


def draw_bev_boxes(
    points: Sequence[np.ndarray],
    paths: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    iou: Sequence[tuple[float, float]],
    columns: int = 4,
) -> Figure:
    """Draw close-ups of single boxes: detector, refined, truth; the IoU is printed below.

    Args:
        points: The cloud of each box, (N, 3 or more).
        paths: Per box (T + 1, 7), the box after each step, the detection first.
        truth: True box (7,) of each box.
        iou: Per box the 3D IoU before and after.
        columns: Panels per row.

    Returns:
        The figure; write it with `save_figure`.

    Raises:
        ValueError: There is no box.
    """
    if not paths:
        raise ValueError("draw_bev_boxes needs at least one path, got none")
    figure, panels = panel_grid(len(paths), columns, 2.9, 3.2)
    for axes, cloud, path, true, ends in zip(panels, points, paths, truth, iou):
        x, y = true[:2]
        half = max(_CLOSE / 2, 0.75 * float(true[3]))
        show_points(axes, cloud, (x - half, y - half, x + half, y + half), size=5.0)
        add_bev_boxes(axes, true[None], "truth")
        add_bev_boxes(axes, path[:1], "before")
        add_bev_boxes(axes, path[-1:], "after")
        axes.plot(*path[:, :2].T, color=GREY, linewidth=0.8)
        axes.set_xlabel(f"3D IoU {ends[0]:.3f} → {ends[1]:.3f}", fontsize=10)
    caption(figure, f"Single boxes from above, {len(paths[0]) - 1} steps")
    box_legend(figure, ("truth", "before", "after"))
    return figure
