"""The tables of the study: one per task, and the taught mixture against the plain one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student_t

from ebm_mmdet.files import markdown_table

from .methods import METHODS, TASKS

__all__ = ["csv_rows", "page_sections", "paired_difference", "screen_text", "task_table"]

COLUMNS = {
    "mae": "MAE",
    "rmse": "RMSE",
    "off_branch": "off every branch, %",
    "nll": "NLL",
    "crps": "CRPS",
    "energy_score": "energy score",
    "coverage_90": "coverage at 90, %",
    "width_90": "width at 90",
    "qce": "QCE",
    "ess": "ESS",
}
"""Values of the tables; a column without any value is left out."""
PERCENT = ("off_branch", "coverage_90")
OF_THE_POINT = ("mae", "rmse", "off_branch")
"""Columns that depend on the kind of point prediction; the others are the density's."""
GROUPS = {"road": "fork", "head": "ambiguous"}
"""Group of images that a task's table also scores on its own."""


def _values(results: Sequence[dict], point: str, key: str) -> np.ndarray:
    found = [(r["values"].get(point) or {}).get(key) for r in results]
    return np.array([np.nan if value is None else value for value in found], float)


def _cell(values: np.ndarray, digits: int, factor: float = 1.0) -> str:
    """Mean ± standard deviation over seeds; a run that failed is counted, not left out."""
    finite = factor * values[np.isfinite(values)]
    if not len(finite):
        return ""
    text = f"{finite.mean():.{digits}f}"
    if len(finite) > 1:
        text += f" ± {finite.std(ddof=1):.{digits}f}"
    failed = len(values) - len(finite)
    return f"{text} ({failed} failed)" if failed else text


def _columns(results: Sequence[dict], task: str) -> dict[str, str]:
    group = GROUPS.get(task)
    wanted = dict(COLUMNS)
    if group:
        wanted |= {"off_branch": "", f"off_branch_{group}": f"off every branch, {group}, %"}
        wanted[f"nll_{group}"] = f"NLL, {group}"
        wanted.pop("off_branch")
    order = [*OF_THE_POINT, f"off_branch_{group}", "nll", f"nll_{group}", *COLUMNS]
    ordered = {key: wanted[key] for key in dict.fromkeys(order) if key in wanted}
    points = ("mean", "median")
    return {
        key: name
        for key, name in ordered.items()
        if any(np.isfinite(_values(results, point, key)).any() for point in points)
    }


def task_table(results: Sequence[dict], task: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of a task.

    Args:
        results: results of :func:`.runs.execute`, of any tasks.
        task: the task.
    """
    results = [r for r in results if r["task"] == task]
    columns = _columns(results, task)
    lines = []
    for name, method in METHODS.items():
        runs = [r for r in results if r["method"] == name]
        if not runs:
            continue
        for i, point in enumerate(method.points):
            label = method.label if len(method.points) == 1 else f"{method.label}: {point}"
            cells = []
            for key in columns:
                of_point = key.startswith(OF_THE_POINT)
                if i and not of_point:
                    cells.append("")
                    continue
                percent = key.startswith(PERCENT)
                cells.append(
                    _cell(
                        _values(runs, point, key),
                        digits=1 if percent else 0 if key == "ess" else 3 if key == "qce" else 2,
                        factor=100 if percent else 1,
                    )
                )
            times = [r["training_s"] for r in runs if r["training_s"] is not None]
            seconds = f"{np.median(times):.0f}" if times and not i else ""
            lines.append([label, "" if i else str(len(runs)), *cells, seconds])
    oracle = _oracle_line(results, columns)
    return ["", "seeds", *columns.values(), "training, CPU s"], lines + oracle


def _oracle_line(results: Sequence[dict], columns: dict[str, str]) -> list[list[str]]:
    cells = []
    for key in columns:
        name = key.replace("nll", "nll_oracle") if key.startswith("nll") else None
        values = _values(results, "mean", name) if name else np.array([])
        finite = values[np.isfinite(values)]
        cells.append(f"{finite.mean():.2f}" if len(finite) else "")
    return [["the true density", "", *cells, ""]] if any(cells) else []


def paired_difference(
    results: Sequence[dict], task: str, method: str, against: str, key: str, point: str = "median"
) -> dict | None:
    """Difference of two methods over the seeds that both have, with a 95 % interval (Student's t).

    Returns:
        ``mean``, ``low``, ``high``, ``seeds``; None with fewer than two common seeds.
    """

    def by_seed(name: str) -> dict[int, float]:
        runs = [r for r in results if r["task"] == task and r["method"] == name]
        values = {r["seed"]: _values([r], point, key)[0] for r in runs}
        return {seed: value for seed, value in values.items() if np.isfinite(value)}

    ours, theirs = by_seed(method), by_seed(against)
    seeds = sorted(ours.keys() & theirs.keys())
    if len(seeds) < 2:
        return None
    difference = np.array([ours[seed] - theirs[seed] for seed in seeds])
    half = student_t.ppf(0.975, len(seeds) - 1) * difference.std(ddof=1) / len(seeds) ** 0.5
    mean = difference.mean()
    return dict(mean=mean, low=mean - half, high=mean + half, seeds=len(seeds))


def teacher_table(results: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    """The taught mixtures, and other pairs that the papers compare, seed by seed."""
    pairs = [
        ("mdn_teacher", "mdn", "nll"),
        ("mdn_teacher_warm", "mdn", "nll"),
        ("ebm_mdn", "mdn", "nll"),
        ("ebm_mdn", "ebm", "nll"),
        ("ebm_mdn", "gaussian", "mae"),
        ("ebm_mdn", "direct", "mae"),
    ]
    lines = []
    for method, against, key in pairs:
        for task in TASKS:
            point = "mean" if against == "direct" else "median"
            found = paired_difference(results, task, method, against, key, point)
            if found is None:
                continue
            holds_zero = found["low"] <= 0 <= found["high"]
            verdict = "none shown" if holds_zero else "better" if found["mean"] < 0 else "worse"
            label = f"{METHODS[method].label} − {METHODS[against].label}"
            number = f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"
            lines.append([label, task, COLUMNS[key], str(found["seeds"]), number, verdict])
    return ["", "task", "of", "seeds", "difference [95 %]", "effect"], lines


def _described(results: Sequence[dict], task: str) -> str:
    runs = [r for r in results if r["task"] == task]
    threads = sorted({r["threads"] for r in runs})
    return (
        f"`python tools/study.py regression --tasks {task}`, {threads[0]} CPU thread per run. "
        "Mean ± standard deviation over seeds (initial weights, order, noise; the images are the "
        "same). The point is the median unless a row says otherwise."
    )


def page_sections(results: Sequence[dict]) -> dict[str, str]:
    """Content of the marked sections of the page, by name."""
    sections = {}
    for task in TASKS:
        if any(r["task"] == task for r in results):
            table = markdown_table(*task_table(results, task))
            sections[f"regression-{task}"] = f"{_described(results, task)}\n\n{table}"
    header, lines = teacher_table(results)
    if lines:
        sections["regression-pairs"] = markdown_table(header, lines)
    return sections


def screen_text(results: Sequence[dict]) -> str:
    """All tables as text."""
    parts = [f"{name}\n\n{content}" for name, content in page_sections(results).items()]
    return "\n\n".join(parts) + "\n"


def csv_rows(results: Sequence[dict]) -> list[dict]:
    """One row per run and kind of point prediction."""
    keys = sorted({key for r in results for values in r["values"].values() for key in values})
    fixed = ("task", "method", "seed", "training_s", "ms_per_step", "prediction_s", "parameters")
    return [
        {**{key: r[key] for key in fixed}, "point": point, **{key: values.get(key) for key in keys}}
        for r in results
        for point, values in r["values"].items()
    ]
