"""What the scores of an audit study are worth, in numbers and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ebm_mmdet.evaluation.bootstrap import bootstrap_weights, difference, resample
from ebm_mmdet.files import markdown_table

from .planted_errors import ranking

__all__ = ["audit_page", "measure_costs", "measure_scores"]

PARTS = {"audit": "evidence", "f": "f", "Gaussian": "Gaussian"}
"""What is compared between modes: by the name of the score, the name in the table."""


def measure_scores(run: Mapping) -> dict:
    """AUROC and average precision of each score and kind, and what the proposals are worth."""
    kind = np.array(run["kind"])
    table = {name: ranking(score, kind) for name, score in run["scores"].items()}
    worth = {}
    sure = kind != "unclear"
    for mode, fixed in run["fixed"].items():
        before, after = np.array(fixed["before"]), np.array(fixed["after"])
        probability = np.array(run["scores"][f"probability, {mode}"])
        bad, flagged = (kind != "") & sure, probability >= 0.5
        worth[mode] = dict(
            bad_before=before[bad].mean(),
            bad_after=after[bad].mean(),
            good_before=before[kind == ""].mean(),
            good_after=after[kind == ""].mean(),
            precision=bad[flagged & sure].mean() if flagged.any() else float("nan"),
            recall=flagged[bad].mean(),
            share=float(probability.mean()),
            planted_share=(kind != "").mean(),
            calibration_error=_calibration_error(probability, kind != ""),
        )
    counts = {str(name): int((kind == name).sum()) for name in sorted(set(run["kind"]))}
    rounded = {
        mode: {key: round(float(value), 4) for key, value in each.items()}
        for mode, each in worth.items()
    }
    return dict(seed=run["seed"], counts=counts, ranking=table, worth=rounded)


def _calibration_error(probability: np.ndarray, bad: np.ndarray, bins: int = 10) -> float:
    """Mean absolute gap of probability and share in bins of equal width, weighted by size."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [
        abs(probability[place == b].mean() - bad[place == b].mean()) * (place == b).mean()
        for b in range(bins)
        if (place == b).any()
    ]
    return float(np.sum(gaps))


def measure_costs(
    runs: Sequence[Mapping], modes: Sequence[str], resamples: int = 100
) -> list[dict]:
    """What it costs to judge in one mode instead of the first one, with the same errors.

    Args:
        runs: of the seeds: ``kind`` and ``image`` of each annotation, and ``scores``.
        modes: in the order of the columns.
        resamples: of the bootstrap over images, all seeds at once.

    Returns:
        A row for each part of the evidence, kind of error and mode: ``part``, ``kind``, ``mode``,
        ``value`` [AUROC, average precision], means over seeds, and, but for the first mode,
        ``change`` and ``error``, the paired difference and its bootstrap error. Empty for one mode.
    """
    modes = [mode for mode in modes if all(f"audit, {mode}" in run["scores"] for run in runs)]
    if len(modes) < 2:
        return []
    images = max(max(run["image"]) for run in runs) + 1
    weights = bootstrap_weights(images, resamples)
    rows = []
    for part, shown in PARTS.items():
        names = [f"{part}, {mode}" for mode in modes]
        if not all(name in run["scores"] for name in names for run in runs):
            continue
        measured = [resample(lambda w, name=name: _means(runs, name, w), weights) for name in names]
        kinds = list(_rankings(runs[0], names[0]))
        for k, kind in enumerate(kinds):
            if kind == "all" and len(kinds) == 2:  # as the only kind
                continue
            for mode, each in zip(modes, measured):
                row = dict(part=shown, kind=kind, mode=mode, value=_pair(each.value, k))
                if each is not measured[0]:
                    change = difference(measured[0], each)
                    row.update(change=_pair(change.value, k), error=_pair(change.std, k))
                rows.append(row)
    return rows


def _means(runs: Sequence[Mapping], name: str, weights: np.ndarray) -> np.ndarray:
    """AUROC and average precision of each kind (2 K,), means over seeds, of weighted images."""
    each = [list(_rankings(run, name, weights).values()) for run in runs]
    return np.mean(each, axis=0).ravel()


def _rankings(run: Mapping, name: str, weights: np.ndarray | None = None) -> dict:
    """Of the annotations of a run, each as often as its image; kinds are those of all images."""
    kind, score = np.array(run["kind"]), np.array(run["scores"][name], float)
    usual = ranking(score, kind)
    if weights is None:
        return usual
    rows = np.repeat(np.arange(len(kind)), weights[np.array(run["image"])].astype(int))
    drawn = ranking(score[rows], kind[rows])
    return {each: drawn.get(each, (np.nan, np.nan)) for each in usual}


def _pair(values: np.ndarray, k: int) -> list[float]:
    return [round(float(value), 4) for value in values[2 * k : 2 * k + 2]]


def audit_page(report: Mapping) -> str:
    """The results as Markdown: means over seeds ± their standard deviation."""
    runs = report["runs"]
    kinds = list(runs[0]["ranking"]["random"])
    rows = []
    for name in runs[0]["ranking"]:
        # Of a folder that an earlier version has begun, some seeds may lack a score.
        if name.startswith("probability") or not all(name in run["ranking"] for run in runs):
            continue
        cells = [name]
        for kind in kinds:
            values = np.array([run["ranking"][name][kind] for run in runs])
            cells.append(f"{_mean(values[:, 0])} / {_mean(values[:, 1])}")
        rows.append(cells)
    worth = []
    for mode in runs[0]["worth"]:
        each = [run["worth"][mode] for run in runs]
        worth.append([mode, *(_mean(np.array([one[key] for one in each])) for key in each[0])])
    tables = [
        markdown_table(["AUROC / average precision", *kinds], rows),
        markdown_table(["", *(key.replace("_", " ") for key in runs[0]["worth"][mode])], worth),
    ]
    return "\n\n".join([*tables, *([_cost_table(report["costs"])] if report["costs"] else [])])


def _cost_table(costs: Sequence[Mapping]) -> str:
    """A line for each part and kind; beside each other mode, its change against the first one."""
    modes = list(dict.fromkeys(row["mode"] for row in costs))
    header = ["AUROC / average precision", modes[0]]
    for mode in modes[1:]:
        header += [mode, f"{mode} against {modes[0]}"]
    lines: dict[str, list[str]] = {}
    for row in costs:
        line = lines.setdefault(f"{row['part']}, {row['kind']}", [])
        line.append(" / ".join(f"{value:.3f}" for value in row["value"]))
        if "change" in row:
            pairs = zip(row["change"], row["error"])
            line.append(" / ".join(f"{change:+.3f} ± {error:.3f}" for change, error in pairs))
    return markdown_table(header, [[name, *cells] for name, cells in lines.items()])


def _mean(values: np.ndarray) -> str:
    text = f"{values.mean():.3f}"
    return text if len(values) == 1 else f"{text} ± {values.std(ddof=1):.3f}"
