"""A whole run of a demo: its folder, what the screen shows, and the table on a page."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from ebm_mmdet.files import write_json

from .folder import RESULTS, choose_folder, finished_results
from .screen import quiet, screen

__all__ = ["whole_run"]

Results = list | dict


def whole_run(
    out: Path,
    settings: dict,
    make: Callable[[Path, Callable[[str], None]], Results],
    show: Callable[[Results], tuple[Table, str]],
    page: Path | None = None,
    fill: Callable[[Path, Results], None] | None = None,
) -> Path:
    """Run a demo in its folder; an interrupted run is continued, a finished one never changed.

    Args:
        out: output folder; `folder.choose_folder` describes what happens if it exists.
        settings: everything that the run depends on; JSON types.
        make: from the folder, and a function that shows a line, to the results, which JSON can
            hold. It writes ``pictures/``; what libraries print goes to ``console.log``.
        show: from the results to a table and a legend for the screen.
        page: page in which the table of this demo is filled in.
        fill: from the page and the results to that table in the page.

    Returns:
        The folder with ``results.json``, ``pictures/`` and ``console.log``. With a page, that of a
        finished run with the same settings in ``out``, from which the page is filled in.
    """
    out = Path(out)
    console, say = screen()
    if page is not None and (finished := finished_results(out, settings)) is not None:
        fill(page, finished)
        say(f"table written to {page}, from the finished run in {out}")
        return out
    out, note = choose_folder(out, settings)
    if note:
        say(note)
    start = time.monotonic()
    with quiet(out / "console.log"):
        results = make(out, say)
    table, legend = show(results)
    console.print(table)
    say(legend)
    if page is not None:
        fill(page, results)
        say(f"table written to {page}")
    write_json(out / RESULTS, results)  # last, because it marks the run as finished
    say(f"pictures: {out / 'pictures'}")
    say(f"done in {time.monotonic() - start:.0f} s; logs: {out / 'console.log'}")
    return out
