"""The part that the command lines of the demos share; light imports keep --help fast."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..command_line import ROOT, add_page

__all__ = ["CONFIGS", "demo_parser"]

CONFIGS = ROOT / "configs" / "demo"


class _Parser(argparse.ArgumentParser):
    def parse_args(self, *arguments) -> argparse.Namespace:
        args = super().parse_args(*arguments)
        if args.seeds < 1:
            self.error(f"--seeds {args.seeds}: must be at least 1")
        if args.page and args.seeds == 1:
            self.error(
                f"--page {args.page}: its table shows the spread over seeds, so it needs several; "
                "add --seeds 3, as in the published table"
            )
        return args


def demo_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with ``--seeds``, ``--out`` and ``--page`` that checks their values."""
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: 1)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("work_dirs", name),
        help=f"output folder (default: work_dirs/{name}); a finished run in it is kept, and the "
        "new one goes to a numbered folder beside it",
    )
    add_page(
        parser,
        "results.md",
        "also fill in the table of a page",
        "; with several seeds. From a finished run of the same kind, if --out has one",
    )
    return parser
