"""Pictures of the study: densities, D_KL against M, training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from torch import Tensor

from ebm_mmdet.visualization.style import GREY, HEAT, INK, caption, new_figure

from .data import Dataset
from .evaluation import log_probability_table
from .network import Ensemble
from .published import MARKS, published_kl

__all__ = ["learned_density", "plot_curves", "plot_densities", "plot_kl_vs_samples", "true_density"]

_COLOURS = {
    "ml-is": "#0072B2",
    "kld-is": "#E69F00",
    "nce": "#009E73",
    "nceplus": "#D55E00",
    "sm": "#56B4E9",
    "dsm": "#CC79A7",
}
_OTHER_COLOURS = ("#666666", "#8C564B", "#332288", "#88CCEE", "#999933")
_MARKERS = {"ml-is": "o", "kld-is": "s", "nce": "^", "nceplus": "D"}
_NAMES = {"ml-is": "ML-IS", "kld-is": "KLD-IS", "nce": "NCE", "nceplus": "NCE+"}
PIXELS, FINER = 480, 8
"""Pixels of a density image along x and y, and the number of values of y per pixel."""


def display_name(method: str) -> str:
    """The name of a method as in the papers."""
    return _NAMES.get(method, method.upper().replace("TEACHER", "teacher"))


def _grid(dataset: Dataset) -> tuple[Tensor, Tensor, float]:
    """Pixel centres x, finer y, and the spacing of the latter."""
    edges = [
        torch.linspace(low, high, 2 * n + 1)[1::2]
        for (low, high), n in ((dataset.x_range, PIXELS), (_shown(dataset), PIXELS * FINER))
    ]
    return *edges, float(edges[1][1] - edges[1][0])


def _shown(dataset: Dataset) -> tuple[float, float]:
    """The part of the y axis that a picture shows; evaluations use all of ``y_range``."""
    return (-10.0, 10.0) if dataset.name == "umal" else dataset.y_range


def _pixels(log_p: Tensor, spacing: float) -> np.ndarray:
    """Convert log-probabilities (x, finer y) to densities (y, x)."""
    density = log_p.exp().view(len(log_p), PIXELS, FINER).mean(-1) / spacing
    return density.T.numpy()


def true_density(dataset: Dataset) -> np.ndarray:
    """Image (y, x) of the true density."""
    x, y, spacing = _grid(dataset)
    return _pixels(log_probability_table(dataset.true_log_density, x, y), spacing)


@torch.no_grad()
def learned_density(ensemble: Ensemble, model: int, dataset: Dataset) -> np.ndarray:
    """Image (y, x) of the density of one model, normalised over the shown range."""
    x, y, spacing = _grid(dataset)
    columns = []
    for part in x.split(max(1, (1 << 21) // (ensemble.num_models * len(y)))):
        points = y.expand(ensemble.num_models * len(part), -1).unsqueeze(-1)
        f = ensemble.log_density_fn(part.expand(ensemble.num_models, -1))(points)
        f = f.view(ensemble.num_models, len(part), len(y))[model]
        columns.append(f.double().log_softmax(-1))
    return _pixels(torch.cat(columns), spacing)


def plot_densities(dataset: Dataset, images: Mapping[str, np.ndarray], text: str) -> Figure:
    """Draw p(y | x) as images, one panel each, all with one scale of colours.

    Args:
        dataset: determines the axes, and the points drawn on the first panel.
        images: density (y, x) by title, the truth first.
        text: caption.

    Returns:
        The figure; write it with ``save_figure``.
    """
    columns = min(4, len(images))
    rows = math.ceil(len(images) / columns)
    figure = new_figure(3.1 * columns + 0.7, 2.9 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    truth = next(iter(images.values()))
    # The brightest value of a typical column saturates the scale, or narrow parts would fill it.
    norm = PowerNorm(0.5, 0, float(np.quantile(truth.max(0), 0.6)))
    extent = (*dataset.x_range, *_shown(dataset))
    for axes, (title, image) in zip(panels, images.items()):
        drawn = axes.imshow(
            image,
            extent=extent,
            origin="lower",
            aspect="auto",
            cmap=HEAT,
            norm=norm,
            interpolation="nearest",
        )
        axes.set_title(title, fontsize=10, color=INK)
    for axes in panels[len(images) :]:
        axes.set_visible(False)
    for axes in panels[: len(images)][-columns:]:
        axes.set_xlabel("x")
        axes.tick_params(labelbottom=True)
    for axes in panels[::columns]:
        axes.set_ylabel("y")
    bar = figure.colorbar(drawn, ax=panels.tolist(), extend="max", shrink=0.8, pad=0.01)
    bar.set_label("p(y | x)")
    caption(figure, text)
    return figure


def plot_kl_vs_samples(rows: Sequence[dict]) -> Figure:
    """Draw D_KL (mean of the best five, ± their spread) against M, on logarithmic axes.

    Args:
        rows: summaries with ``dataset``, ``method``, ``num_samples``, ``best_mean`` and
            ``best_std``, of the methods that have several M.

    Returns:
        The figure, with one panel per data set, and one for their mean and the published values.
    """
    datasets = sorted({row["dataset"] for row in rows})
    figure = new_figure(4.0 * (len(datasets) + 1), 3.9)
    panels = figure.subplots(1, len(datasets) + 1, sharey=True)
    curves: dict[str, dict[str, dict[int, dict]]] = {}
    for row in rows:
        by_set = curves.setdefault(row["method"], {})
        by_set.setdefault(row["dataset"], {})[row["num_samples"]] = row
    for method in [m for m in _MARKERS if m in curves]:
        look = {"color": _COLOURS[method], "marker": _MARKERS[method], "markersize": 4.5}
        for axes, dataset in zip(panels, datasets):
            found = curves[method].get(dataset, {})
            m = sorted(found)
            means = [found[k]["best_mean"] for k in m]
            spread = [found[k]["best_std"] for k in m]
            axes.errorbar(m, means, spread, label=display_name(method), capsize=2, **look)
        common = set.intersection(*(set(curves[method].get(d, {})) for d in datasets))
        m = sorted(common)
        means = [
            sum(curves[method][d][k]["best_mean"] for d in datasets) / len(datasets) for k in m
        ]
        panels[-1].plot(m, means, **look)
        printed = {k: found for k in m if (found := published_kl(method, k))}
        panels[-1].plot(
            list(printed),
            [found.value for found in printed.values()],
            linestyle=":",
            markerfacecolor="white",
            **look,
        )
    titles = [f"data set {d}" for d in datasets] + ["mean; dotted: published"]
    for axes, title in zip(panels, titles):
        axes.set_title(title, fontsize=10, color=INK)
        axes.set(xscale="log", yscale="log", xlabel="M, samples per target")
        ticks = sorted({row["num_samples"] for row in rows})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        _tidy(axes)
    _plain_ticks(panels[0])
    panels[0].set_ylabel("D_KL to the truth, nats")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    marks = ", ".join(f"[{mark}] {text}" for mark, text in MARKS.items())
    caption(figure, "Mean of the best five models against the number of samples")
    panels[-1].annotate(
        "\n".join(marks.split(", [")).replace("\nD]", "\n[D]"),
        (0.98, 0.97),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize=6.5,
        color=GREY,
    )
    return figure


def plot_curves(results: Sequence[dict], key: str, label: str, log: bool, text: str) -> Figure:
    """Draw a quantity against the epoch: median over models, and their middle half as a band.

    Args:
        results: results of runs, each with ``key`` as (epochs, models); None for a failed model.
        key: ``"kl_curve"`` or ``"loss_curve"``.
        label: label of the y axis.
        log: use a logarithmic y axis and one panel per data set; else one panel per method.
        text: caption.

    Returns:
        The figure.
    """
    groups: dict[str, list[dict]] = {}
    for result in sorted(results, key=lambda result: result["dataset"]) if log else results:
        title = _set_title(result["dataset"]) if log else display_name(result["method"])
        groups.setdefault(title, []).append(result)
    columns = len(groups) if log else min(4, len(groups))
    rows = math.ceil(len(groups) / columns)
    size = (5.2, 4.2) if log else (3.1, 2.6)
    figure = new_figure(size[0] * columns, size[1] * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=log).ravel()
    methods = list(dict.fromkeys(result["method"] for result in results))
    for axes, (title, members) in zip(panels, groups.items()):
        for result in members:
            values = np.array(result[key], dtype=float)
            low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=1)
            epochs = np.arange(1, len(values) + 1)
            if log:
                colour, name = _colour(result["method"], methods), display_name(result["method"])
            else:
                colour = "#0072B2" if result["dataset"] != "2" else "#D55E00"
                name = _set_title(result["dataset"])
            axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
            # A line through few points would not be visible.
            marker = "o" if len(values) < 4 else None
            axes.plot(epochs, middle, color=colour, linewidth=1.4, marker=marker, label=name)
        axes.set_title(title, fontsize=10, color=INK)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if log:
            axes.set_yscale("log")
            _plain_ticks(axes)
        _tidy(axes)
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel(label)
    entries = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles))
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=5, frameon=False
    )
    caption(figure, text)
    return figure


def _set_title(dataset: str) -> str:
    return "1D-2" if dataset == "umal" else f"data set {dataset}"


def _colour(method: str, methods: Sequence[str]) -> str:
    others = [name for name in methods if name not in _COLOURS]
    if method in _COLOURS:
        return _COLOURS[method]
    return _OTHER_COLOURS[others.index(method) % len(_OTHER_COLOURS)]


def _plain_ticks(axes: Axes) -> None:
    """Ticks 1, 2, 5 per decade on a logarithmic y axis, as plain numbers."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _tidy(axes: Axes) -> None:
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
