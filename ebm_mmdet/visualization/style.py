"""The common style of all figures: colours that colour-blind readers can distinguish, thin lines.

No display is needed: figures are made without pyplot and are only written to files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from ..files import open_atomic

# Okabe & Ito's palette: orange and blue differ for every common colour blindness, and the truth
# also has its own line style.
BEFORE = "#E69F00"
AFTER = "#0072B2"
AFTER_LINE = "#4DB8FF"  # the same blue, light enough for a line on a photograph
TRUTH = "#FFFFFF"
INK = "#222222"
GREY = "#8A8A8A"
HEAT = "magma"

_HALO = "#101010"
_STYLES = {
    "truth": {"edgecolor": TRUTH, "linewidth": 1.0, "linestyle": (0, (3, 2))},
    "before": {"edgecolor": BEFORE, "linewidth": 1.3, "linestyle": "-"},
    "after": {"edgecolor": AFTER_LINE, "linewidth": 1.3, "linestyle": "-"},
}
_NAMES = {"truth": "truth", "before": "detector", "after": "refined"}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, sizes in inches, laid out without overlaps."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def panel_grid(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels of that size in inches, at most `columns` in a row."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = new_figure(width * columns, height * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, list(panels[:count])


def save_figure(figure: Figure, path: str | os.PathLike, dpi: int = 150) -> Path:
    """Write a figure as PNG, atomically; folders are created as needed."""
    with open_atomic(path) as file:
        figure.savefig(file, dpi=dpi, format="png")
    return Path(path)


def show_image(axes: Axes, image: np.ndarray, window: Sequence[float] | None = None) -> None:
    """Show an image in its own pixel coordinates, upsampled smoothly, without axes.

    Args:
        axes: Where to draw.
        image: ``(H, W, 3)`` uint8 RGB. Pixel ``(i, j)`` covers ``[j, j+1) x [i, i+1)``, as boxes
            do.
        window: Part ``(x1, y1, x2, y2)`` to show, in pixels; by default the whole image.
    """
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0), interpolation="bicubic")
    x1, y1, x2, y2 = window if window is not None else (0, 0, width, height)
    axes.set(xlim=(x1, x2), ylim=(y2, y1), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def add_boxes(axes: Axes, boxes: np.ndarray, kind: str) -> None:
    """Draw boxes ``(n, 4)`` xyxy; `kind` is ``"truth"``, ``"before"`` or ``"after"``."""
    style = _STYLES[kind]
    halo = [Stroke(linewidth=style["linewidth"] + 1.2, foreground=_HALO, alpha=0.55), Normal()]
    for x1, y1, x2, y2 in np.asarray(boxes, float).reshape(-1, 4):
        axes.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, path_effects=halo, **style)
        )


def box_legend(figure: Figure, kinds: Sequence[str]) -> None:
    """Put one legend for box colours below the panels of a figure."""
    handles = [
        Line2D(
            [],
            [],
            color=_STYLES[kind]["edgecolor"] if kind != "truth" else GREY,
            linewidth=2,
            linestyle="--" if kind == "truth" else "-",
            label=_NAMES[kind],
        )
        for kind in kinds
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(kinds), frameon=False)


def caption(figure: Figure, text: str) -> None:
    """Put a sentence above the panels that describes them."""
    figure.suptitle(text, fontsize=11, color=INK)
