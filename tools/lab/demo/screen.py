"""The output of a demo: its own lines and tables; a file gets the output of libraries."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console


def screen() -> tuple[Console, Callable[[str], None]]:
    """Return the current standard output as a console, and a function that prints a line there."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(text, markup=False)

    return console, say


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Redirect the output of libraries to a file; the screen shows only our own lines."""
    with (
        log.open("a") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
        warnings.catch_warnings(),
    ):
        yield


def title(num_seeds: int) -> str:
    """Return the heading of the table."""
    if num_seeds == 1:
        return "Before and after refinement"
    return f"Before and after refinement, mean ± standard deviation of {num_seeds} seeds"
