"""Tables of the study for the screen, as CSV, and as sections of a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ebm_mmdet import files

from .evaluation import summarise
from .methods import SWEPT_METHODS
from .published import MARKS, Published, published_kl

__all__ = ["method_table", "page_sections", "screen_tables", "write_csv"]

_KL_SETS = ("1", "2")
_ORDER = ("ml-is", "kld-is", "nce", "nceplus", "ml-mcmc", "dsm", "sm")


def summaries(results: Sequence[dict], metric: str) -> list[dict]:
    """One row per run: method, data set, M, and :func:`summarise` of a metric.

    Args:
        results: results of :func:`.runs.execute`.
        metric: ``"kl"`` or ``"nll"``.
    """
    rows = []
    for result in results:
        values = [float("nan") if v is None else v for v in result[metric]]
        rows.append(
            {
                "dataset": result["dataset"],
                "method": result["method"],
                "num_samples": result["config"]["num_samples"],
                **summarise(torch.tensor(values, dtype=torch.float64)),
            }
        )
    return sorted(
        rows, key=lambda row: (row["dataset"], *method_order(row["method"]), row["num_samples"])
    )


def method_order(method: str) -> tuple:
    """Sort key of methods: those of the first study, then the others by name and number."""
    stem, _, number = method.rpartition("-")
    name, size = (stem, int(number)) if number.isdigit() else (method, 0)
    return _ORDER.index(name) if name in _ORDER else len(_ORDER), name, size


def write_csv(path: Path, results: Sequence[dict]) -> None:
    """One line per run and metric, and per model; written completely or not at all."""
    lines = []
    for metric in ("kl", "nll"):
        by_key = {_key(result): result for result in results}
        for row in summaries(results, metric):
            result = by_key[row["dataset"], row["method"], row["num_samples"]]
            values = ["" if v is None else f"{v:.6f}" for v in result[metric]]
            numbers = {k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()}
            lines.append(
                {
                    "metric": metric,
                    **numbers,
                    "seed": result["settings"]["seed"],
                    "epochs": result["settings"]["epochs"],
                    "ms_per_step": f"{result['ms_per_step']:.2f}",
                    "ess_per_sample": _ess(result, missing=""),
                    "per_model": " ".join(v or "failed" for v in values),
                }
            )
    files.write_csv(path, lines)


def _key(result: dict) -> tuple[str, str, int]:
    return result["dataset"], result["method"], result["config"]["num_samples"]


def method_table(results: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: D_KL of every method and M on both data sets, with the published values."""
    header = ["method", "M", "data 1, best 5", "data 2, best 5", "mean", "published"]
    header += ["data 1, all", "data 2, all", "failed", "ms/step"]
    times = {_key(result): result["ms_per_step"] for result in results}
    table: dict[tuple[str, int], dict[str, dict]] = {}
    for row in summaries(results, "kl"):
        if row["dataset"] in _KL_SETS:
            table.setdefault((row["method"], row["num_samples"]), {})[row["dataset"]] = row
    rows = []
    for (method, m), sets in sorted(
        table.items(), key=lambda item: (method_order(item[0][0]), item[0][1])
    ):
        both = [sets[d] for d in _KL_SETS if d in sets]
        mean = sum(row["best_mean"] for row in both) / 2 if len(both) == 2 else None
        found = published_kl(method, m)
        rows.append(
            [
                method,
                str(m or "–"),
                *(_best(sets.get(d)) for d in _KL_SETS),
                "–" if mean is None else f"{mean:.3f}",
                "–" if found is None else _published(found, m),
                *(_all(sets.get(d)) for d in _KL_SETS),
                " + ".join(f"{row['failed']}/{row['models']}" for row in both),
                f"{sum(times[row['dataset'], method, m] for row in both) / len(both):.0f}",
            ]
        )
    return header, rows


def proposal_table(results: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: fixed noise, learned proposals and mixtures on data set 1 and 1D-2."""
    header = ["method", "M", "data 1: D_KL, best 5", "data 1: NLL, best 5"]
    header += ["1D-2: NLL, best 5", "1D-2: NLL, all", "ESS/M, data 1", "ESS/M, 1D-2", "failed"]
    by_key = {_key(result): result for result in results}
    cells: dict[tuple[str, int], dict] = {}
    for metric in ("kl", "nll"):
        for row in summaries(results, metric):
            cells.setdefault((row["method"], row["num_samples"]), {})[metric, row["dataset"]] = row
    rows = []
    for (method, m), found in cells.items():
        if ("nll", "umal") not in found:
            continue
        failed = [found[key] for key in (("kl", "1"), ("nll", "umal")) if key in found]
        rows.append(
            [
                method,
                str(m or "–"),
                _best(found.get(("kl", "1"))),
                _best(found.get(("nll", "1"))),
                _best(found[("nll", "umal")]),
                _all(found[("nll", "umal")]),
                *(_ess(by_key.get((dataset, method, m))) for dataset in ("1", "umal")),
                " + ".join(f"{row['failed']}/{row['models']}" for row in failed),
            ]
        )
    return header, sorted(rows, key=lambda row: method_order(row[0]))


def _published(found: Published, num_samples: int) -> str:
    """The number and its mark, and the paper's M if it differs."""
    text = f"{found.value:.3f} [{found.mark}]"
    return text if found.num_samples == num_samples else f"{text}, M = {found.num_samples}"


def _best(row: dict | None) -> str:
    return "–" if row is None else f"{row['best_mean']:.3f} ± {row['best_std']:.3f}"


def _all(row: dict | None) -> str:
    return "–" if row is None else f"{row['mean']:.3f} ± {row['std']:.3f}"


def _ess(result: dict | None, missing: str = "–") -> str:
    """Mean effective sample size per sample of the models that did not fail."""
    values = [v for v in (result or {}).get("ess", []) if v is not None]
    return f"{sum(values) / len(values):.3f}" if values else missing


def screen_tables(results: Sequence[dict]) -> list[Table]:
    """The tables that have rows, for a console."""
    tables = []
    for title, (header, rows) in (
        ("D_KL to the truth, nats", method_table(results)),
        ("Learned proposals and stand-alone mixtures", proposal_table(results)),
    ):
        if rows:
            table = Table(title=title, box=SIMPLE_HEAD)
            for index, name in enumerate(header):
                table.add_column(name, justify="right" if index else "left", no_wrap=True)
            for row in rows:
                table.add_row(*row)
            tables.append(table)
    return tables


def page_sections(results: Sequence[dict]) -> dict[str, str]:
    """Markdown of the page's sections by the names of their markers; only those with rows."""
    header, rows = method_table(results)
    largest = {
        name: max((int(r[1]) for r in rows if r[0] == name and r[1] != "–"), default=0)
        for name in {row[0] for row in rows}
    }
    main = [r for r in rows if r[1] == "–" or int(r[1]) == largest[r[0]]]
    main = [r for r in main if "mdn" not in r[0]]
    sweep = [[*r[:6], r[8]] for r in rows if r[0] in SWEPT_METHODS]
    sections = {
        "regression1d-methods": (header, main),
        "regression1d-samples": ([*header[:6], header[8]], sweep),
        "regression1d-proposals": proposal_table(results),
    }
    note = _note(results)
    return {
        name: f"{note}\n\n{_markdown(head, body)}"
        for name, (head, body) in sections.items()
        if body
    }


def _note(results: Sequence[dict]) -> str:
    kinds = {json.dumps(result["settings"]) for result in results}
    if len(kinds) > 1:
        raise ValueError(
            f"the folder has runs with {len(kinds)} settings, which cannot be in one table: "
            f"{'; '.join(sorted(kinds))}. Use a separate --out for each."
        )
    settings, machine = results[0]["settings"], results[0]["machine"]
    marks = "; ".join(f"[{mark}] {meaning}" for mark, meaning in MARKS.items())
    return (
        f"{settings['models']} models per run, {settings['epochs']} epochs, seed "
        f"{settings['seed']}; {machine['processor']}, {machine['cores']} cores, one run per core. "
        "Best 5: mean of the five smallest values ± their population standard deviation; all: mean "
        f"± standard deviation of every model that did not fail. Published: {marks}."
    )


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])
