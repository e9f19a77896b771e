"""Pictures of boxes on images: before and after refinement, and the path between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ebm_mmdet.box_iou import box_iou
from ebm_mmdet.visualization.style import (
    AFTER,
    AFTER_LINE,
    BEFORE,
    add_boxes,
    box_legend,
    caption,
    new_figure,
    panel_grid,
    show_image,
)

__all__ = ["draw_before_after", "draw_refinement_paths", "window_around"]

_BETWEEN = LinearSegmentedColormap.from_list("between", [BEFORE, "#FFFFFF", AFTER_LINE])


def draw_before_after(
    images: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
) -> Figure:
    """Draw images in two rows: the detector's boxes above, the refined ones below.

    The mean IoU of its boxes with the truth is printed below each panel.

    Args:
        images: ``(H, W, 3)`` uint8 RGB each.
        truth: Per image ``(n, 4)`` xyxy; row i is the object of box i.
        before: Per image ``(n, 4)`` boxes of the detector.
        after: Per image ``(n, 4)`` the same boxes, refined.

    Returns:
        The figure; write it with `save_figure`.

    Raises:
        ValueError: There is no image.
    """
    if not images:
        raise ValueError("draw_before_after needs at least one image, got none")
    figure = new_figure(2.9 * len(images), 6.7)
    panels = figure.subplots(2, len(images), squeeze=False)
    rows = ((before, "before", "detector"), (after, "after", "refined"))
    for axes_row, (boxes_of, kind, name) in zip(panels, rows):
        for axes, image, true_boxes, boxes in zip(axes_row, images, truth, boxes_of):
            show_image(axes, image)
            add_boxes(axes, true_boxes, "truth")
            add_boxes(axes, boxes, kind)
            iou = box_iou(boxes, true_boxes).mean() if len(boxes) else float("nan")
            colour = BEFORE if kind == "before" else AFTER
            axes.set_xlabel(f"{name}: mean IoU {iou:.3f}", fontsize=10, color=colour)
            axes.xaxis.label.set_fontweight("bold")
    caption(figure, "Detections before and after climbing the learned density")
    box_legend(figure, ("truth", "before", "after"))
    return figure


def window_around(boxes: np.ndarray, shape: tuple[int, int]) -> tuple[float, ...]:
    """Return the square ``(x1, y1, x2, y2)`` around boxes, with a margin, inside the image.

    Args:
        boxes: ``(n, 4)`` xyxy.
        shape: ``(height, width)`` of the image.
    """
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    half = min(0.5 * (high - low).max() * 1.25 + 2, min(shape) / 2)
    limit = np.array([shape[1], shape[0]]) - half
    centre = np.clip((low + high) / 2, half, limit)
    return (*(centre - half), *(centre + half))


def draw_refinement_paths(
    images: Sequence[np.ndarray],
    paths: Sequence[np.ndarray],
    truth: Sequence[np.ndarray],
    columns: int = 4,
) -> Figure:
    """Draw the refinement paths of boxes, one panel each, from orange (start) to blue (end).

    Args:
        images: The image of each box, ``(H, W, 3)`` uint8 RGB.
        paths: Per box ``(T + 1, 4)`` xyxy, the box after each step, the detection first.
        truth: Per box ``(4,)`` xyxy.
        columns: Panels per row.

    Returns:
        The figure; write it with `save_figure`.

    Raises:
        ValueError: There is no box.
    """
    if not paths:
        raise ValueError("draw_refinement_paths needs at least one path, got none")
    figure, panels = panel_grid(len(paths), columns, 2.9, 3.25)
    for axes, image, path, true_box in zip(panels, images, paths, truth):
        path, true_box = np.asarray(path, float), np.asarray(true_box, float)
        show_image(axes, image, window_around(np.vstack([path, true_box]), image.shape[:2]))
        for step, (x1, y1, x2, y2) in enumerate(path[1:-1], start=1):
            axes.plot(
                [x1, x2, x2, x1, x1],
                [y1, y1, y2, y2, y1],
                color=_BETWEEN(step / (len(path) - 1)),
                linewidth=0.5,
                alpha=0.8,
            )
        add_boxes(axes, path[0], "before")
        add_boxes(axes, path[-1], "after")
        add_boxes(axes, true_box, "truth")
        start, end = box_iou(path[[0, -1]], true_box)
        axes.set_xlabel(f"IoU {start:.3f} → {end:.3f}", fontsize=10)
    caption(figure, f"The refinement of single boxes, {len(paths[0]) - 1} steps")
    box_legend(figure, ("truth", "before", "after"))
    return figure
