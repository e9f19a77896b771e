"""Objects that two conventions box differently, and the log-density over the side in question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ebm_mmdet.visualization.style import (
    AFTER,
    BEFORE,
    GREY,
    INK,
    add_boxes,
    box_legend,
    caption,
    new_figure,
    show_image,
)

from .boxes import window_around

__all__ = ["draw_two_hills"]

_SIDES = ("left", "upper", "right", "lower")
_LEAST_MASS = 0.05  # modes with less are not drawn


def draw_two_hills(images: Sequence[np.ndarray], objects: Sequence) -> Figure:
    """Draw each object above exp f over one of its sides.

    Args:
        images: ``(H, W, 3)`` uint8 RGB, of the objects.
        objects: `SeenObject`, see ``lab.studies.convention_objects``.

    Returns:
        The figure; write it with `save_figure`.

    Raises:
        ValueError: There is no object.
    """
    if not objects:
        raise ValueError("draw_two_hills needs at least one object, got none")
    figure = new_figure(3.0 * len(objects), 5.6)
    panels = figure.subplots(2, len(objects), squeeze=False)
    for image, each, above, below in zip(images, objects, *panels):
        kept = np.nan_to_num(each.mass) >= _LEAST_MASS
        modes, masses = each.modes[kept], each.mass[kept]
        everything = np.vstack([each.conventions, each.detected[None], modes])
        show_image(above, image, window_around(everything, image.shape[:2]))
        add_boxes(above, each.conventions, "truth")
        add_boxes(above, each.detected, "before")
        add_boxes(above, modes, "after")

        density = np.exp(each.slice_f - each.slice_f.max())
        below.fill_between(each.slice_at, density, color=AFTER, alpha=0.25)
        below.plot(each.slice_at, density, color=AFTER, linewidth=1.2)
        for position in each.conventions[:, each.slice_side]:
            below.axvline(position, color=GREY, linestyle="--", linewidth=1.2)
        below.axvline(each.detected[each.slice_side], color=BEFORE, linewidth=1.5)
        for mode, mass in zip(modes, masses):
            place = (mode[each.slice_side], 1.04)
            below.annotate(f"{100 * mass:.0f} %", place, ha="center", fontsize=9, color=INK)
        below.set(ylim=(0, 1.18), yticks=[0, 1], xlim=(each.slice_at[0], each.slice_at[-1]))
        below.set_xlabel(f"{_SIDES[each.slice_side]} side, pixels", fontsize=9)
    panels[1][0].set_ylabel("exp f, relative", fontsize=9)
    caption(figure, "Two right boxes, the detection, the modes with their masses, and exp f")
    box_legend(figure, ("truth", "before", "after"))
    return figure
