"""What the command lines of demos and studies share; light imports keep --help fast."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["ROOT", "add_page", "run_command"]

ROOT = Path(__file__).resolve().parents[2]

T = TypeVar("T")


def add_page(parser: argparse.ArgumentParser, page: str, what: str, more: str = "") -> None:
    """Add ``--page [FILE]``, which is ``docs/PAGE`` without a value.

    Args:
        parser: to add it to.
        page: name of a page in ``docs``.
        what: what is written into it, for the help.
        more: the rest of the help, behind the default.
    """
    parser.add_argument(
        "--page",
        type=Path,
        nargs="?",
        const=ROOT / "docs" / page,
        metavar="FILE",
        help=f"{what} (default: docs/{page}){more}",
    )


def run_command(name: str, run: Callable[[], T], *mended_by_user: type[Exception]) -> T:
    """Run a command; errors that the user can fix, and Ctrl-C, end it with one line."""
    try:
        return run()
    except mended_by_user as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{name}: interrupted; the same command goes on from here")
