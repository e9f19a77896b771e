"""Selects the pictures for the results in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ebm_mmdet.visualization.style import save_figure

from .data import DATASETS, load_dataset
from .figures import (
    display_name,
    learned_density,
    plot_curves,
    plot_densities,
    plot_kl_vs_samples,
    true_density,
)
from .methods import SWEPT_METHODS
from .report import method_order, summaries
from .runs import Run, load_model
from .training import Settings

__all__ = ["draw_all"]


def draw_all(results: Sequence[dict], out: Path) -> list[Path]:
    """Draw densities, D_KL against M, and training curves, if there are results for them.

    Args:
        results: results of :func:`.runs.execute`.
        out: the folder of the study; pictures in its folder ``figures`` are replaced.

    Returns:
        The files.
    """
    figures, written = {}, []
    largest = _with_most_samples(results)
    for dataset in DATASETS:
        chosen = [result for result in largest if result["dataset"] == dataset]
        if chosen:
            figures[f"densities_{dataset}"] = _densities(dataset, chosen, out)
    swept = [row for row in summaries(results, "kl") if row["method"] in SWEPT_METHODS]
    swept = [row for row in swept if row["dataset"] != "umal" and row["best_mean"] > 0]
    if len({row["num_samples"] for row in swept}) > 1:
        figures["kl_vs_samples"] = plot_kl_vs_samples(swept)
    figures["training_kl"] = plot_curves(
        largest,
        "kl_curve",
        "D_KL to the truth, nats",
        True,
        "Divergence during training (coarse grid): median of the models and their middle half",
    )
    figures["training_loss"] = plot_curves(
        largest,
        "loss_curve",
        "training loss",
        False,
        "Training loss: median of the models and their middle half; its scale is the method's own",
    )
    for name, figure in figures.items():
        written.append(save_figure(figure, out / "figures" / f"{name}.png"))
    return written


def _with_most_samples(results: Sequence[dict]) -> list[dict]:
    """For each method and data set, the run with the largest M that did not fail completely."""
    best: dict[tuple[str, str], dict] = {}
    for result in results:
        if any(value is not None for value in result["nll"]):
            key = result["dataset"], result["method"]
            if key not in best or _samples(result) > _samples(best[key]):
                best[key] = result
    return sorted(best.values(), key=lambda result: method_order(result["method"]))


def _samples(result: dict) -> int:
    return result["config"]["num_samples"]


def _densities(name: str, results: Sequence[dict], out: Path):
    dataset = load_dataset(name)
    metric, unit = ("nll", "NLL") if name == "umal" else ("kl", "D_KL")
    images = {"truth": true_density(dataset)}
    for result in results:
        run = Run(result["method"], name, result["config"], Settings(**result["settings"]))
        values = [float("inf") if v is None else v for v in result[metric]]
        model = values.index(min(values))
        title = f"{display_name(run.method)}: {unit} {values[model]:.3f}"
        images[title] = learned_density(load_model(run, out).density, model, dataset)
    text = f"True density and the best model of each method, {_title(name)}"
    return plot_densities(dataset, images, text)


def _title(name: str) -> str:
    return "1D-2" if name == "umal" else f"data set {name}"
