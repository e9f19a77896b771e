"""The page with the table of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...files import markdown_table, write_text
from .kind import Kind
from .verdict import Verdict

__all__ = ["table", "write_page"]


def table(rows: Sequence[dict], kind: Kind) -> str:
    """The rows as a Markdown table."""
    header = ["", *kind.headings.values(), f"ms per {kind.noun}"]
    lines = []
    for row in rows:
        cells = [_cell(row, metric) for metric in kind.headings]
        lines.append([row["method"], *cells, f"{row['ms_per_image']:.1f}"])
    return markdown_table(header, lines)


def _cell(row: dict, metric: str) -> str:
    if row[metric] is None:
        return "-"
    change, error = row[f"change_{metric}"], row[f"error_{metric}"]
    if change is None:
        return f"{row[metric]:.2f}"
    return f"{row[metric]:.2f} ({change:+.2f}" + (")" if error is None else f" ± {error:.2f})")


def write_page(
    path: Path,
    kind: Kind,
    rows: Sequence[dict],
    found: Verdict,
    facts: Sequence[str],
    files: Sequence[str],
    pictures: Sequence[str],
) -> None:
    """Write ``page.md``: verdict, table, facts, files, pictures."""
    described = (
        "Values in percent; in brackets the change against the detector ± its bootstrap error over"
        f" {kind.noun}s ({rows[0]['resamples']} resamples, paired). {kind.described} The "
        "regression head was trained on the same objects and features, in the same iterations, on "
        "a quarter of the boxes around them. Times are medians: the detector, and what moves its "
        "boxes."
    )
    parts = [f"# {found.sentence}", table(rows, kind), described]
    parts.append("\n".join(f"- {fact}" for fact in facts))
    parts.append("\n".join(f"    {line}" for line in files))
    parts += [f"![boxes before and after]({name})" for name in pictures]
    write_text(path, "\n\n".join(parts) + "\n")
