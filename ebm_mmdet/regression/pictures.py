"""An image beside the density that a model predicts for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ..visualization.style import AFTER, BEFORE, GREY, INK, caption, new_figure, show_image
from .scores import wrap

__all__ = ["density_on_grid", "draw_prediction"]

GREEN = "#009E73"
BINS = 240
"""Cells of the grid on which samples become a density; the map of two coordinates has a third."""

STYLES = {
    "truth": dict(color=INK, linestyle="--", linewidth=1.4, zorder=4),
    "mean": dict(color=BEFORE, linewidth=1.6),
    "mode": dict(color=GREEN, linewidth=1.6),
    "prediction": dict(color=BEFORE, linewidth=1.6),
}
MARKERS = {
    "truth": dict(marker="*", markersize=8, markeredgecolor="white", markeredgewidth=0.4, zorder=4),
    "mean": dict(marker="s", markersize=6, markeredgecolor="white"),
    "mode": dict(marker="o", markersize=12, markerfacecolor="none", markeredgewidth=1.6),
    "prediction": dict(marker="s", markersize=6, markeredgecolor="white"),
}


def density_on_grid(
    samples: np.ndarray, limits: tuple[float, float], period: float | None = None, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray]:
    """Density of a coordinate from its samples: a histogram, smoothed by a Gaussian.

    The Gaussian has the standard deviation 0.8 s S^(-1/5), but at least one bin. s is the width of
    the shortest interval with a fifth of the samples over 0.507, which for one Gaussian is its
    standard deviation. Unlike the latter, as in Silverman's rule, it does not grow with the
    distance of two peaks.

    Args:
        samples: (S,) samples.
        limits: the lower and upper end of the grid; samples outside are not counted.
        period: period of the coordinate; the grid should then cover it.
        bins: number of bins.

    Returns:
        Centres (bins,) of the bins, and the density (bins,) there, whose integral is the share of
        samples inside the limits.
    """
    counts, edges = np.histogram(samples, bins=bins, range=limits)
    step = edges[1] - edges[0]
    ordered, fifth = np.sort(samples), max(1, len(samples) // 5)
    shortest = (ordered[fifth:] - ordered[:-fifth]).min() if len(samples) > fifth else 0.0
    smooth = max(0.8 * shortest / 0.507 * len(samples) ** -0.2 / step, 1.0)
    mode = "wrap" if period else "nearest"
    density = gaussian_filter(counts.astype(float), smooth, mode=mode)
    return 0.5 * (edges[1:] + edges[:-1]), density / (step * len(samples))


def draw_prediction(
    image: np.ndarray,
    sample: Mapping,
    target_meta: Mapping | None = None,
    title: str = "",
    whole_range: bool = False,
) -> Figure:
    """Draw an image beside p(y | x) with truth, mean and mode.

    For D = 1 the density is one curve; for more coordinates there is one marginal each, and a map
    of the first two. A model without samples, such as a direct regressor, gives lines only.

    Args:
        image: (H, W, 3) uint8 RGB.
        sample: fields of a data sample: any of ``gt_target`` (D,), ``pred_target`` (D,),
            ``pred_samples`` (S, D), ``density_grid`` (G,) with ``pred_density`` (G,) for D = 1,
            and ``oracle_weights`` (K,), ``oracle_means`` and ``oracle_stds`` (K, D) of a true
            density that is a mixture of Gaussians, in raw units.
        target_meta: ``target`` of the data set's metainfo: names, units, ranges, periods.
        title: sentence above the panels.
        whole_range: show the whole declared range, instead of the part that has samples.

    Returns:
        The figure; write it with `save_figure`.

    Raises:
        ValueError: the sample has neither a label nor a prediction.
    """
    truth, point = (_numbers(sample.get(key)) for key in ("gt_target", "pred_target"))
    samples = _numbers(sample.get("pred_samples"))
    known = next((v for v in (truth, point) if v is not None), None)
    if known is None:
        raise ValueError("the sample has neither gt_target nor pred_target: nothing to draw")
    dim, meta = len(known), _described(target_meta, len(known))
    if samples is not None:
        samples = _into_ranges(samples, meta)
    lines = {} if truth is None else {"truth": truth}
    if samples is None:
        if point is not None:
            lines["prediction"] = point
    else:
        lines["mean"] = _mean(samples, meta["periods"])
    # Labels of angles have any value, and means are around 0: (0, 360) has other numbers for them.
    lines = {name: _into_ranges(value, meta) for name, value in lines.items()}
    oracle = [_numbers(sample.get(f"oracle_{key}")) for key in ("weights", "means", "stds")]
    columns = 2 if dim == 1 else 2 + dim
    figure = new_figure(7.2 if dim == 1 else 2.6 * columns + 0.8, 3.0)
    axes = figure.subplots(1, columns, width_ratios=[1, 1.5] if dim == 1 else None)
    show_image(axes[0], image)
    curves = []
    for d in range(dim):
        limits = _limits(meta, d, samples, lines, whole_range or dim > 1)
        if dim == 1 and sample.get("pred_density") is not None:
            curve = _numbers(sample["density_grid"]), _numbers(sample["pred_density"])
        elif samples is not None:
            curve = density_on_grid(samples[:, d], limits, meta["periods"][d])
        else:
            curve = None
        curves.append((limits, curve))
    if dim == 1 and curves[0][1] is not None:
        grid, density = curves[0][1]
        lines["mode"] = grid[[density.argmax()]]
    elif samples is not None:
        lines["mode"] = _joint_mode(samples, meta, [limits for limits, _ in curves])
    for d, (limits, curve) in enumerate(curves):
        _marginal(axes[1 + d], limits, curve, lines, d, meta)
        if oracle[1] is not None:
            grid = np.linspace(*limits, 4 * BINS)
            axes[1 + d].plot(
                grid, _mixture(grid, *oracle, d), color=GREY, lw=1, label="true p(y | x)"
            )
    if dim > 1:
        _map(axes[-1], samples, lines, meta, [limits for limits, _ in curves])
    handles, names = axes[1].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9
    )
    if title:
        caption(figure, title)
    return figure


def _described(meta: Mapping | None, dim: int) -> dict:
    meta = dict(meta or {})
    meta.setdefault("names", ("y",) if dim == 1 else tuple(f"y{d}" for d in range(dim)))
    for key, missing in (("units", ""), ("ranges", None), ("periods", None)):
        meta[key] = meta.get(key) or (missing,) * dim
    return meta


def _into_ranges(values: np.ndarray, meta: dict) -> np.ndarray:
    """Points (..., D) whose periodic coordinates are moved into their declared range."""
    values = values.copy()
    for d, (period, declared) in enumerate(zip(meta["periods"], meta["ranges"])):
        if period and declared is not None:
            values[..., d] = declared[0] + (values[..., d] - declared[0]) % period
    return values


def _limits(
    meta: dict, d: int, samples: np.ndarray | None, lines: dict, whole: bool
) -> tuple[float, float]:
    """The part of coordinate d to show: what has samples or lines, with a margin."""
    declared = meta["ranges"][d]
    if whole and declared is not None:
        return tuple(map(float, declared))
    values = [line[d] for line in lines.values()]
    if samples is not None:
        values += list(np.quantile(samples[:, d], [0.002, 0.998]))
    low, high = min(values), max(values)
    least = 0.15 * (declared[1] - declared[0]) if declared is not None else 1e-3
    half = max(0.65 * (high - low), 0.5 * least)
    low, high = (low + high) / 2 - half, (low + high) / 2 + half
    if declared is not None:
        low, high = max(low, declared[0]), min(high, declared[1])
    # A line outside the declared range must not make the part empty.
    return (low, high) if low < high else (min(values) - half, max(values) + half)


def _mixture(grid: np.ndarray, weights, means, stds, d: int) -> np.ndarray:
    """Density (G,) of coordinate d of a mixture of Gaussians."""
    z = (grid[:, None] - means[:, d]) / stds[:, d]
    return (weights * np.exp(-0.5 * z**2) / (stds[:, d] * np.sqrt(2 * np.pi))).sum(1)


def _marginal(axes: Axes, limits, curve, lines: dict, d: int, meta: dict) -> None:
    if curve is not None:
        axes.fill_between(*curve, color=AFTER, alpha=0.22, linewidth=0)
        axes.plot(*curve, color=AFTER, linewidth=1.3, label="p(y | x)")
        axes.set_ylim(0, 1.1 * curve[1].max())
    for name, value in lines.items():
        axes.axvline(value[d], label=name, **STYLES[name])
    unit = f", {meta['units'][d]}" if meta["units"][d] else ""
    axes.set(xlim=limits, yticks=[], xlabel=f"{meta['names'][d]}{unit}")
    axes.spines[["top", "left", "right"]].set_visible(False)


def _map(axes: Axes, samples: np.ndarray | None, lines: dict, meta: dict, limits: list) -> None:
    """The density of the first two coordinates, with the points."""
    (x0, x1), (y0, y1) = limits[:2]
    if samples is not None:
        bins = BINS // 3
        counts, _, _ = np.histogram2d(*samples[:, :2].T, bins=bins, range=limits[:2])
        modes = ["wrap" if period else "nearest" for period in meta["periods"][:2]]
        density = gaussian_filter(counts, 1.2, mode=modes)
        axes.imshow(density.T, origin="lower", extent=(x0, x1, y0, y1), aspect="auto", cmap="Blues")
    for name, value in lines.items():
        axes.plot(*value[:2], color=STYLES[name]["color"], linestyle="", **MARKERS[name])
    axes.set(xlim=(x0, x1), ylim=(y0, y1), xlabel=meta["names"][0], ylabel=meta["names"][1])


def _joint_mode(samples: np.ndarray, meta: dict, limits: Sequence) -> np.ndarray:
    """The sample (D,) with the smallest distance to its twentieth part of neighbours."""
    chosen = samples[:: max(1, len(samples) // 400)]
    size = np.array([high - low for low, high in limits])
    distance = np.linalg.norm(wrap(chosen[:, None] - samples, meta["periods"]) / size, axis=-1)
    rank = max(1, len(samples) // 20) - 1
    return chosen[np.partition(distance, rank, axis=1)[:, rank].argmin()]


def _mean(samples: np.ndarray, periods: Sequence[float | None]) -> np.ndarray:
    mean = samples.mean(0)
    for d, period in enumerate(periods):
        if period:
            mean[d] = np.angle(np.exp(2j * np.pi * samples[:, d] / period).mean())
            mean[d] *= period / (2 * np.pi)
    return mean


def _numbers(value) -> np.ndarray | None:
    if value is None:
        return None
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value, float)
