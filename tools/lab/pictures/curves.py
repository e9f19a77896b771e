"""Average precision against the number of refinement steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ebm_mmdet.visualization.style import BEFORE, GREY, INK, caption, new_figure

__all__ = ["plot_ap_vs_steps"]

_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def plot_ap_vs_steps(
    steps: Sequence[int],
    values: Mapping[str, np.ndarray],
    used: int | None = None,
) -> Figure:
    """Draw one panel per metric: its value against T, and that of the detector as a dashed line.

    Args:
        steps: Numbers of steps T, ascending; the first must be 0, the detector itself.
        values: Values by metric name, ``(len(steps),)``, or ``(seeds, len(steps))`` drawn as mean
            and range.
        used: The T of the table, which is marked.

    Returns:
        The figure; write it with `save_figure`.

    Raises:
        ValueError: `steps` does not begin with 0, or a metric does not have one value per step.
    """
    if not len(steps) or steps[0] != 0:
        raise ValueError(f"steps must begin with 0 (the detector itself), got {list(steps)}")
    figure = new_figure(3.4 * len(values), 3.4)
    panels = figure.subplots(1, len(values), squeeze=False)[0]
    for axes, (name, series), colour in zip(panels, values.items(), _LINES * len(values)):
        series = np.atleast_2d(np.asarray(series, float))
        if series.shape[1] != len(steps):
            raise ValueError(f"{name} has {series.shape[1]} values for {len(steps)} steps")
        mean = series.mean(0)
        axes.axhline(mean[0], color=BEFORE, linestyle="--", linewidth=1.2)
        if len(series) > 1:
            axes.fill_between(steps, series.min(0), series.max(0), color=colour, alpha=0.15)
        axes.plot(steps, mean, color=colour, marker="o", markersize=3.5, linewidth=1.6)
        if used is not None:
            axes.axvline(used, color=GREY, linestyle=":", linewidth=1)
        axes.set_title(name, fontsize=11, color=INK)
        axes.set_xlabel("steps T")
        axes.grid(axis="y", color="#E6E6E6", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    text = "Precision against the number of steps; dashed: the detector"
    caption(figure, text + (f", dotted: T = {used}" if used is not None else ""))
    return figure
