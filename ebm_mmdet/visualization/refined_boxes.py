"""A picture of an image with the boxes before and after refinement, and their spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .style import AFTER_LINE, INK, add_boxes, box_legend, new_figure, show_image
from .uncertainty import side_bars

__all__ = ["draw_refined_boxes"]

INCHES, DPI = (6.0, 14.0), 100
"""Shortest and longest width of a picture, and its dots per inch."""


def draw_refined_boxes(
    image: np.ndarray,
    before: np.ndarray | None,
    after: np.ndarray,
    names: Sequence[str],
    uncertainty: np.ndarray | None = None,
) -> np.ndarray:
    """Draw boxes on an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        before: (n, 4) boxes of the detector, xyxy in pixels, or None if they are those of
            ``after``.
        after: (n, 4) boxes after refinement.
        names: a text for each box, written at its upper left corner.
        uncertainty: (n, 4) standard deviations of x1, y1, x2, y2 in pixels, or the ends of their
            intervals (n, 4, 2), drawn as a bar across each side; or None.

    Returns:
        (h, w, 3) uint8 RGB, with a legend if ``before`` is given.
    """
    height, width = image.shape[:2]
    inches = float(np.clip(width / DPI, *INCHES))
    figure = new_figure(inches, inches * height / width + 0.35)
    axes = figure.subplots()
    show_image(axes, image)
    if before is not None:
        add_boxes(axes, before, "before")
        box_legend(figure, ["before", "after"])
    add_boxes(axes, after, "after")
    for (x, y, *_), name in zip(after, names):
        axes.text(
            min(max(x, 0), width),
            min(max(y, 0), height),
            name,
            fontsize=7,
            color="white",
            va="bottom",
            clip_on=True,
            bbox=dict(facecolor=INK, alpha=0.6, pad=0.8, linewidth=0),
        )
    if uncertainty is not None and len(after):
        for x, y in zip(*side_bars(after, uncertainty, (height, width))):
            axes.plot(x, y, color=AFTER_LINE, linewidth=2.2, solid_capstyle="butt")
    figure.set_dpi(DPI)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
