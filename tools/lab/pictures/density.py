"""The learned density of one box, as heat maps."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from ebm_mmdet.visualization.style import (
    AFTER_LINE,
    BEFORE,
    HEAT,
    TRUTH,
    add_boxes,
    caption,
    new_figure,
    show_image,
)

from .boxes import window_around

__all__ = ["plot_density_slices"]

_PATH = {"color": "white", "linewidth": 1.0, "marker": "o", "markersize": 2.0}
# Markers of the ends of the path and of the truth on a heat map.
_MARKERS = {
    "detector": {"marker": "s", "color": BEFORE, "markersize": 7},
    "refined": {"marker": "o", "color": AFTER_LINE, "markersize": 7},
    "truth": {"marker": "*", "color": TRUTH, "markersize": 13},
}


def _heat_map(
    axes: Axes, grid: np.ndarray, log_density: np.ndarray, path: np.ndarray, truth: np.ndarray
):
    """Draw ``exp(f - max f)`` over a square grid; `path` (T + 1, 2), `truth` (2,)."""
    density = np.exp(log_density - log_density.max())
    # Four decades, because a linear scale would show only a single bright dot.
    mesh = axes.pcolormesh(
        grid, grid, density, norm=LogNorm(1e-4, 1), cmap=HEAT, shading="gouraud", rasterized=True
    )
    levels = [0.01, 0.1, 0.5]
    axes.contour(grid, grid, density, levels=levels, colors="white", linewidths=0.5, alpha=0.6)
    axes.plot(*path.T, **_PATH)
    for (name, style), point in zip(_MARKERS.items(), (path[0], path[-1], truth)):
        axes.plot(*point, linestyle="", markeredgecolor="black", label=name, **style)
    axes.set(xlim=(grid[0], grid[-1]), ylim=(grid[0], grid[-1]), aspect="equal")
    return mesh


def plot_density_slices(
    image: np.ndarray,
    reference: np.ndarray,
    path: np.ndarray,
    truth: np.ndarray,
    centre_grid: np.ndarray,
    centre_log_density: np.ndarray,
    size_grid: np.ndarray,
    size_log_density: np.ndarray,
) -> Figure:
    """Draw ``exp f`` over one box's centre (size fixed) and over its size (centre fixed).

    Both slices contain the end of the path. Values are relative to the maximum of the slice.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        reference: ``(4,)`` xyxy, the detection; the origin of encoded offsets.
        path: ``(T + 1, 4)`` encoded offsets of all steps, ``(dcx/w, dcy/h, log w/w0, log h/h0)``.
        truth: ``(4,)`` encoded offset of the true box.
        centre_grid: ``(R,)`` centre offsets, the same along x and y.
        centre_log_density: ``(R, R)``; entry ``[i, j]`` is f at ``(centre_grid[j],
            centre_grid[i])``.
        size_grid: ``(R,)`` log-size offsets, the same for width and height.
        size_log_density: ``(R, R)``; entry ``[i, j]`` is f at ``(size_grid[j], size_grid[i])``.

    Returns:
        The figure; write it with `save_figure`.
    """
    figure = new_figure(11.5, 4.5)
    on_image, centre_axes, size_axes = figure.subplots(1, 3)

    def decode(offset: np.ndarray) -> np.ndarray:
        size = reference[2:] - reference[:2]
        centre = (reference[:2] + reference[2:]) / 2 + offset[:2] * size
        half = 0.5 * size * np.exp(offset[2:])
        return np.concatenate([centre - half, centre + half])

    boxes = np.stack([decode(offset) for offset in path])
    true_box = decode(truth)
    show_image(on_image, image, window_around(np.vstack([boxes, true_box]), image.shape[:2]))
    for box, kind in ((boxes[0], "before"), (boxes[-1], "after"), (true_box, "truth")):
        add_boxes(on_image, box, kind)
    on_image.set_title("one box", fontsize=10)

    _heat_map(centre_axes, centre_grid, centre_log_density, path[:, :2], truth[:2])
    centre_axes.invert_yaxis()  # as in the image, where y points down
    centre_axes.set_title("density over its centre (size as refined)", fontsize=10)
    centre_axes.set(xlabel="shift of x, in widths", ylabel="shift of y, in heights")

    mesh = _heat_map(size_axes, size_grid, size_log_density, path[:, 2:], truth[2:])
    size_axes.set_title("density over its size (centre as refined)", fontsize=10)
    size_axes.set(xlabel="width, relative to the detection", ylabel="height, relative")
    ticks = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6, 2.0])
    if size_grid[-1] > 0.25:
        ticks = ticks[1::2]  # 0.6, 0.8, 1, 1.25, 1.6
    ticks = ticks[(np.log(ticks) >= size_grid[0]) & (np.log(ticks) <= size_grid[-1])]
    for axis in (size_axes.xaxis, size_axes.yaxis):
        axis.set_major_locator(FixedLocator(np.log(ticks)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{np.exp(value):.3g}×"))
    bar = figure.colorbar(mesh, ax=size_axes, shrink=0.85)
    bar.set_label("exp f, relative to the maximum", fontsize=9)
    caption(figure, "The learned density around one detection, and the climb")
    figure.legend(
        *centre_axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    return figure
