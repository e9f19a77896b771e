"""Pictures of generated rooms: the image with its boxes, depth and normals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ebm_mmdet.datasets.rooms import CLASSES, SCENE_TYPES, RoomScene
from ebm_mmdet.visualization.auxiliary_maps import depth_to_colour, normals_to_rgb
from ebm_mmdet.visualization.style import INK, add_boxes, new_figure, show_image

__all__ = ["draw_rooms"]


def draw_rooms(rooms: Sequence[RoomScene], across: int = 2) -> Figure:
    """Draw rooms, each as image with boxes and class names, depth, and normals.

    Boxes of ignored objects are not drawn. Depth is bright where near; normals are
    255 (n + 1) / 2 as red, green and blue.

    Args:
        rooms: The rooms; each has the name of its scene type above it.
        across: Rooms in a row.

    Returns:
        The figure; write it with `save_figure`.

    Raises:
        ValueError: There is no room.
    """
    if not rooms:
        raise ValueError("draw_rooms needs at least one room, got none")
    rows = -(-len(rooms) // across)
    height, width = rooms[0].image.shape[:2]
    side = 2.4
    figure = new_figure(3 * across * side, rows * (side * height / width + 0.25))
    panels = figure.subplots(rows, 3 * across, squeeze=False).reshape(-1, 3)
    for axes_of_room in panels[len(rooms) :]:
        for axes in axes_of_room:
            axes.set_visible(False)
    for room, (picture, depth, normals) in zip(rooms, panels):
        show_image(picture, room.image[..., ::-1])
        boxes, labels = room.boxes[~room.ignored], room.labels[~room.ignored]
        add_boxes(picture, boxes, "after")
        for (x, y, _, _), label in zip(boxes, labels):
            picture.text(
                x,
                y,
                CLASSES[label],
                fontsize=5.5,
                color="white",
                va="bottom",
                clip_on=True,
                bbox={"facecolor": "black", "alpha": 0.55, "linewidth": 0, "pad": 0.6},
            )
        show_image(depth, depth_to_colour(room.depth))
        show_image(normals, normals_to_rgb(np.moveaxis(room.normals, -1, 0)))
        name = SCENE_TYPES[room.scene_type].replace("_", " ")
        picture.set_title(name, fontsize=9, color=INK, loc="left")
    return figure
