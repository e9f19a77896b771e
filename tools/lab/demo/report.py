"""The table for the screen and for the page of results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from ebm_mmdet import files

EARLY_STOP = (
    "The detector is stopped early on purpose: trained to the end, it would leave less to refine."
)


def rows(results: Sequence[dict]) -> list[tuple[str, str, str, str]]:
    """Return metric, before, after and difference as text, with the spread over seeds.

    Args:
        results: Per seed ``{"before": {metric: value}, "after": {metric: value}}``.
    """
    lines = []
    for name in results[0]["before"]:
        before, after = (
            np.array([result[when][name] for result in results]) for when in ("before", "after")
        )
        digits = 3 if "mean" in name else 1  # an IoU in [0, 1]; the others are in percent or ms
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


def screen_table(results: Sequence[dict], title: str, before: str = "detector") -> Table:
    """Return the table for the screen; `before` names what was refined."""
    table = Table(title=title)
    table.add_column("")
    for header in (before, "refined", "difference"):
        table.add_column(header, justify="right")
    for name, was, became, difference in rows(results):
        table.add_row(name, was, became, f"[bold]{difference}[/bold]")
    return table


def markdown_table(results: Sequence[dict], before: str = "detector") -> str:
    """Return the same table in Markdown."""
    return files.markdown_table(["", before, "refined", "difference"], rows(results))
