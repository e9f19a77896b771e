"""The learned density of one box, as heat maps."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from .boxes import _window
from .style import HEAT, add_boxes, box_legend, caption, new_figure, show_image

__all__ = ["plot_density_slices"]

_PATH = {"color": "white", "linewidth": 1.0, "marker": "o", "markersize": 2.0}


def _heat_map(
    axes: Axes, grid: np.ndarray, log_density: np.ndarray, path: np.ndarray, truth: np.ndarray
):
    """Draw ``exp(f - max f)`` over a square grid; `path` (T + 1, 2), `truth` (2,)."""
    density = np.exp(log_density - log_density.max())
    # Four decades: a linear scale would show a single bright dot.
    mesh = axes.pcolormesh(
        grid, grid, density, norm=LogNorm(1e-4, 1), cmap=HEAT, shading="gouraud", rasterized=True
    )
    levels = [0.01, 0.1, 0.5]
    axes.contour(grid, grid, density, levels=levels, colors="white", linewidths=0.5, alpha=0.6)
    axes.plot(*path.T, **_PATH)
    axes.plot(*path[0], "s", color="#E69F00", markersize=7, markeredgecolor="black")
    axes.plot(*path[-1], "o", color="#4DB8FF", markersize=7, markeredgecolor="black")
    axes.plot(*truth, "*", color="white", markersize=13, markeredgecolor="black")
    axes.set(xlim=(grid[0], grid[-1]), ylim=(grid[0], grid[-1]), aspect="equal")
    return mesh


def plot_density_slices(
    image: np.ndarray,
    reference: np.ndarray,
    path: np.ndarray,
    truth: np.ndarray,
    grid: np.ndarray,
    centre_log_density: np.ndarray,
    size_log_density: np.ndarray,
) -> Figure:
    """Draw ``exp f`` over one box's centre (size fixed) and over its size (centre fixed).

    Both slices go through the end of the climb. Values are relative to the slice's maximum.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        reference: ``(4,)`` xyxy, the detection; the origin of encoded offsets.
        path: ``(T + 1, 4)`` encoded offsets of the climb, ``(dcx/w, dcy/h, log w/w0, log h/h0)``.
        truth: ``(4,)`` encoded offset of the true box.
        grid: ``(R,)`` offsets at which the slices were evaluated, the same along both axes.
        centre_log_density: ``(R, R)``; entry ``[i, j]`` is f at centre offset
            ``(grid[j], grid[i])``.
        size_log_density: ``(R, R)``; entry ``[i, j]`` is f at log-size ``(grid[j], grid[i])``.

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
    show_image(on_image, image, _window(boxes, true_box, image.shape[:2]))
    add_boxes(on_image, true_box, "truth")
    add_boxes(on_image, boxes[0], "before")
    add_boxes(on_image, boxes[-1], "after")
    on_image.set_title("the box", fontsize=10)

    _heat_map(centre_axes, grid, centre_log_density, path[:, :2], truth[:2])
    centre_axes.invert_yaxis()  # as in the image: y grows downwards
    centre_axes.set_title("density over its centre", fontsize=10)
    centre_axes.set(xlabel="shift of x, in widths", ylabel="shift of y, in heights")

    mesh = _heat_map(size_axes, grid, size_log_density, path[:, 2:], truth[2:])
    size_axes.set_title("density over its size", fontsize=10)
    size_axes.set(xlabel="width, relative to the detection", ylabel="height, relative")
    ticks = np.array([0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5])
    ticks = ticks[(np.log(ticks) >= grid[0]) & (np.log(ticks) <= grid[-1])]
    for axis in (size_axes.xaxis, size_axes.yaxis):
        axis.set_major_locator(FixedLocator(np.log(ticks)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{np.exp(value):.2g}×"))
    bar = figure.colorbar(mesh, ax=size_axes, shrink=0.85)
    bar.set_label("exp f, relative to the maximum", fontsize=9)
    caption(figure, "Orange: detection.  Blue: after the climb.  Star: truth.")
    box_legend(figure, ("truth", "before", "after"))
    return figure
