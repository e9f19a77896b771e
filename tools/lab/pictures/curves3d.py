"""Curves of the 3D demo: precision and cost against steps, f against a rotation of the box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ebm_mmdet.visualization.style import AFTER, BEFORE, GREY, INK, caption, new_figure

__all__ = ["plot_rotation_scans", "plot_steps_3d"]

# From light to dark with the threshold, so that the order is visible without a legend.
_SHADES = ("#9ECAE1", "#6BAED6", "#4292C6", "#2171B5", "#08306B")


def plot_steps_3d(
    steps: Sequence[int],
    precision: Mapping[str, Mapping[str, np.ndarray]],
    milliseconds: np.ndarray,
    used: int | None = None,
) -> Figure:
    """Draw one panel per metric, its AP against T at every threshold, and one of the cost.

    Args:
        steps: Numbers of steps T, ascending.
        precision: By name of a metric, such as ``"3D AP"``, and name of a threshold, ``(seeds,
            len(steps))`` in percent; drawn as mean and range.
        milliseconds: ``(seeds, len(steps))`` per frame, detector included.
        used: The T of the table, which is marked.

    Returns:
        The figure; write it with `save_figure`.

    Raises:
        ValueError: A curve does not have one value for each number of steps.
    """
    figure = new_figure(3.8 * (len(precision) + 1), 3.9)
    *panels, cost = figure.subplots(1, len(precision) + 1)
    for axes, (name, curves) in zip(panels, precision.items()):
        for shade, (threshold, series) in zip(_SHADES, curves.items()):
            _curve(axes, steps, series, shade, f"IoU {threshold}")
        axes.set_title(f"{name}, moderate", fontsize=11, color=INK)
        axes.set_ylabel("%")
    _curve(cost, steps, milliseconds, BEFORE, "")
    cost.set_title("time per frame, detector included", fontsize=11, color=INK)
    cost.set_ylabel("ms")
    cost.set_ylim(bottom=0)
    for axes in (*panels, cost):
        if used is not None:
            axes.axvline(used, color=GREY, linestyle=":", linewidth=1)
        _calm(axes)
        axes.set_xlabel("steps T")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False
    )
    text = "Precision and cost against the number of steps"
    caption(figure, text + (f"; dotted: T = {used}" if used is not None else ""))
    return figure


def _curve(axes: Axes, steps: Sequence[int], series, colour: str, label: str) -> None:
    series = np.atleast_2d(np.asarray(series, float))
    if series.shape[1] != len(steps):
        raise ValueError(f"the curve {label!r} has {series.shape[1]} values for {len(steps)} steps")
    if len(series) > 1:
        axes.fill_between(steps, series.min(0), series.max(0), color=colour, alpha=0.15, lw=0)
    axes.plot(steps, series.mean(0), color=colour, marker="o", markersize=3, lw=1.5, label=label)


def plot_rotation_scans(
    angles: np.ndarray, scans: Sequence[np.ndarray], true_turn: Sequence[float]
) -> Figure:
    """Draw f of boxes rotated about their centre, with all other coordinates as refined.

    Args:
        angles: (R,) rotations in radians, ascending from -pi to pi; 0 is the refined box.
        scans: Per box (R,) f.
        true_turn: Per box the rotation that would give the true yaw, radians.

    Returns:
        The figure; write it with `save_figure`.

    Raises:
        ValueError: There is no box, or a scan does not have one value per angle.
    """
    if not scans:
        raise ValueError("plot_rotation_scans needs at least one box, got none")
    figure = new_figure(3.7 * len(scans), 3.3)
    panels = figure.subplots(1, len(scans), squeeze=False)[0]
    for axes, f, turn in zip(panels, scans, true_turn):
        if len(f) != len(angles):
            raise ValueError(f"a scan has {len(f)} values for {len(angles)} angles")
        axes.plot(angles, f, color=AFTER, linewidth=1.4)
        axes.axvline(turn, color=GREY, linestyle="--", linewidth=1, label="truth")
        axes.plot(0, np.interp(0, angles, f), "o", color=AFTER, markersize=5, label="refined")
        axes.set_xticks([-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], ["−π", "−π/2", "0", "π/2", "π"])
        axes.set(xlim=(-np.pi, np.pi), xlabel="rotation Δφ of the box")
        _calm(axes)
    panels[0].set_ylabel("f")
    panels[0].legend(fontsize=8, frameon=False)
    caption(figure, "f against a rotation of the refined box: one mode per way to fit a rectangle")
    return figure


def _calm(axes: Axes) -> None:
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
