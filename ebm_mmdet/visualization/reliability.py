"""Reliability diagram: observed against nominal coverage of an uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from .style import GREY, INK, caption, new_figure

__all__ = ["plot_reliability"]

_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_MARKERS = ("o", "s", "^", "D")


def plot_reliability(
    levels: Sequence[float] | np.ndarray,
    coverage: Mapping[str, np.ndarray],
    count: int,
) -> Figure:
    """Plot how often the truth lies inside intervals of a given probability.

    On the diagonal the prediction is calibrated; above it the uncertainty is too large, below it
    too small. At each level, the grey band contains the observed share in 95 % of all sets of
    ``count`` independent draws of a calibrated prediction.

    Args:
        levels: ``(J,)`` nominal probabilities, ascending in [0, 1].
        coverage: Name to ``(J,)`` observed shares.
        count: Number of observations behind each share.

    Returns:
        The figure; write it with `save_figure`.

    Raises:
        ValueError: A curve does not have one value for each level.
    """
    levels = np.asarray(levels, float)
    figure = new_figure(4.4, 4.8)
    axes = figure.subplots()
    p = np.linspace(0, 1, 201)
    band = 1.96 * np.sqrt(p * (1 - p) / max(count, 1))
    axes.fill_between(p, (p - band).clip(0), (p + band).clip(max=1), color=GREY, alpha=0.2, lw=0)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2)
    for i, (name, observed) in enumerate(coverage.items()):
        observed = np.asarray(observed, float)
        if observed.shape != levels.shape:
            raise ValueError(f"{name} has {observed.size} values for {levels.size} levels")
        error = np.abs(observed - levels).mean()
        axes.plot(
            levels,
            observed,
            color=_LINES[i % len(_LINES)],
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=3.5,
            linewidth=1.5,
            label=f"{name}, error {error:.3f}",
        )
    for (x, y), text in (
        ((0.04, 0.93), "uncertainty too large"),
        ((0.96, 0.04), "uncertainty too small"),
    ):
        axes.text(x, y, text, ha="left" if x < 0.5 else "right", color=INK, fontsize=9)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("probability of the interval")
    axes.set_ylabel("share of objects inside it")
    axes.grid(color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    caption(figure, f"Calibration of box sides, {count} objects")
    return figure
