"""Results as files, and as a table between two marker comments of a Markdown page.

Every file is written whole or not at all. Standard library only, so that any part of the package
may use it.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "fill_section",
    "markdown_table",
    "read_json",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_text",
]


PARTIAL = ".partial"
"""Ending of a temporary file ``.<name>.<random>.partial``; only kill -9 can leave one behind."""


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file so that it holds the old content or the new one, whenever the process dies.

    Written to a temporary file in the same folder, flushed to the disk, then renamed over the
    target; folders are made as needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL, delete=False
    ) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file (UTF-8) as :func:`write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value) -> None:
    """Write ``value`` as indented JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: str | Path):
    """The content of a JSON file, or None where there is none."""
    path = Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write_csv(path: str | Path, rows: Sequence[dict]) -> None:
    """Write rows with the keys of the first one as header."""
    with tempfile.SpooledTemporaryFile(mode="w+", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        file.seek(0)
        write_text(path, file.read())


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def fill_section(page: str | Path, name: str, content: str) -> None:
    """Replace what stands between ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Everything else of the page stays. A page without the markers, or no page, gets them at the
    end.

    Raises:
        ValueError: only one of the markers is there, or they stand in the wrong order.
    """
    page = Path(page)
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    counts = text.count(begin), text.count(end)
    if counts == (0, 0):
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    elif counts != (1, 1) or text.index(begin) > text.index(end):
        raise ValueError(
            f"{page} has {counts[0]} times {begin!r} and {counts[1]} times {end!r}; expected one "
            "of each, in this order. Repair the page, or remove both to have them added again"
        )
    before, after = text[: text.index(begin)], text[text.index(end) :]
    write_text(page, f"{before}{begin}\n{content.strip()}\n{after}")
