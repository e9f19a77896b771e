"""What the scores of an audit study are worth, in numbers and as a table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ebm_mmdet.files import markdown_table

from .planted_errors import ranking

__all__ = ["audit_page", "measure_scores"]


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


def audit_page(report: Mapping) -> str:
    """The results as Markdown: means over seeds ± their standard deviation."""
    runs = report["runs"]
    kinds = list(runs[0]["ranking"]["random"])
    rows = []
    for name in runs[0]["ranking"]:
        if name.startswith("probability"):
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
    return "\n\n".join(
        [
            markdown_table(["AUROC / average precision", *kinds], rows),
            markdown_table(["", *(key.replace("_", " ") for key in runs[0]["worth"][mode])], worth),
        ]
    )


def _mean(values: np.ndarray) -> str:
    text = f"{values.mean():.3f}"
    return text if len(values) == 1 else f"{text} ± {values.std(ddof=1):.3f}"
