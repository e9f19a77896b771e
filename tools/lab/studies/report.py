"""The rows of a study's table, and the files that it is written to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ebm_mmdet.evaluation.average_precision import METRICS, MatchedDetections
from ebm_mmdet.evaluation.bootstrap import Resamples, difference
from ebm_mmdet.files import write_csv, write_json

from .methods import Method

if TYPE_CHECKING:
    from .study import StudySettings

__all__ = ["make_row", "metric_cell", "over_best", "statistic", "write_report"]


def statistic(runs: Sequence[MatchedDetections]) -> Callable[[np.ndarray], np.ndarray]:
    """Metrics in percent, the mean over runs, as a function of the weights of the images."""
    return lambda weights: 100 * np.mean([run.metrics(weights) for run in runs], axis=0)


def make_row(
    method: Method,
    base: Resamples,
    measured: Resamples,
    runs: Sequence[MatchedDetections],
    training: Sequence[float],
    times: Sequence[float],
) -> dict:
    """One row: means over runs in percent, changes against ``base`` with errors, times.

    Args:
        method: the method of the row.
        base: `statistic` of the first row; the same object for that row itself.
        measured: `statistic` of this row.
        runs: one run per seed.
        training: duration of each training in seconds.
        times: seconds per image of each run.
    """
    spread = (
        np.std([100 * run.metrics() for run in runs], axis=0, ddof=1) if len(runs) > 1 else None
    )
    change = None if measured is base else difference(base, measured)
    row = dict(method=method.name, runs=len(runs))
    for i, name in enumerate(METRICS):
        row[name] = round(float(measured.value[i]), 2)
        row[f"change_{name}"] = None if change is None else round(float(change.value[i]), 2)
        row[f"error_{name}"] = None if change is None else round(float(change.std[i]), 2)
        row[f"seed_std_{name}"] = None if spread is None else round(float(spread[i]), 2)
    row["training_s"] = round(float(np.mean(training)), 1) if training else None
    row["ms_per_image"] = round(1e3 * min(times), 1)
    return row


def over_best(rivals: Sequence[Resamples], measured: Resamples) -> dict[str, float]:
    """``over_l1_M`` and ``over_l1_error_M``: a row minus the best L1 row, for each metric M.

    The best of the rows that are compared is chosen for each metric, on the same images, which
    favours the rival. The error is that of the paired difference.
    """
    entries = {}
    for i, name in enumerate(METRICS):
        best = max(rivals, key=lambda rival: rival.value[i])
        over = difference(best, measured)
        entries[f"over_l1_{name}"] = round(float(over.value[i]), 2)
        entries[f"over_l1_error_{name}"] = round(float(over.std[i]), 2)
    return entries


def metric_cell(row: dict, metric: str) -> str:
    """A metric of a row of :func:`make_row` as text: ``value (change ± error)``."""
    value = f"{row[metric]:.2f}"
    if row[f"change_{metric}"] is None:
        return value
    return f"{value} ({row[f'change_{metric}']:+.2f} ± {row[f'error_{metric}']:.2f})"


def write_report(
    out: Path,
    settings: StudySettings,
    rows: Sequence[dict],
    flat: Callable[[Sequence[dict]], Sequence[Mapping]] = list,
    **facts: object,
) -> dict:
    """Write ``results.json``, and the rows alone as ``results.csv``.

    Args:
        out: folder of the study.
        settings: those of the study.
        rows: see :func:`make_row`; they may have more entries.
        flat: from the rows to those of the CSV file, whose entries are single values.
        **facts: further entries of ``results.json``, before the rows.

    Returns:
        The content of ``results.json``.
    """
    threads = torch.get_num_threads()
    report = dict(settings=asdict(settings), **facts, threads=threads, rows=list(rows))
    write_json(out / "results.json", report)
    write_csv(out / "results.csv", flat(rows))
    return report
