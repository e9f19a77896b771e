"""The table: for the screen, and for the page of results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from .evaluate import METRICS_SHOWN, TIME

BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"
EARLY_STOP = (
    "The detector is stopped early on purpose: trained to the end, it would leave less to refine."
)
_DIGITS = {"mean IoU": 3}


def rows(results: Sequence[dict]) -> list[tuple[str, str, str, str]]:
    """Return metric, before, after and difference as text, with the spread over seeds.

    Args:
        results: Per seed ``{"before": {metric: value}, "after": {metric: value}}``.
    """
    lines = []
    for name in (*METRICS_SHOWN, TIME):
        before, after = (
            np.array([result[when][name] for result in results]) for when in ("before", "after")
        )
        digits = _DIGITS.get(name, 1)
        cells = [
            _mean_and_spread(values, digits, sign=values is difference)
            for difference in [after - before]
            for values in (before, after, difference)
        ]
        lines.append((name, *cells))
    return lines


def _mean_and_spread(values: np.ndarray, digits: int, sign: bool) -> str:
    text = f"{values.mean():{'+' if sign else ''}.{digits}f}"
    if len(values) > 1:
        text += f" ± {values.std(ddof=1):.{digits}f}"
    return text


def screen_table(results: Sequence[dict], title: str) -> Table:
    """Return the table for the screen."""
    table = Table(title=title)
    table.add_column("")
    for header in ("detector", "refined", "difference"):
        table.add_column(header, justify="right")
    for name, before, after, difference in rows(results):
        table.add_row(name, before, after, f"[bold]{difference}[/bold]")
    return table


def markdown_table(results: Sequence[dict]) -> str:
    """Return the same table in Markdown."""
    head = ["| | detector | refined | difference |", "|---|---|---|---|"]
    return "\n".join(head + ["| " + " | ".join(line) + " |" for line in rows(results)])


def fill_results_page(page: Path, content: str) -> bool:
    """Replace what stands between the two marker comments of a page; False without markers.

    Args:
        page: A Markdown file.
        content: What to put there.
    """
    text = page.read_text() if page.is_file() else ""
    if BEGIN not in text or END not in text:
        return False
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    partial = page.with_name(f".{page.name}.partial")
    partial.write_text(f"{head}{BEGIN}\n{content}\n{END}{tail}")
    os.replace(partial, page)
    return True
