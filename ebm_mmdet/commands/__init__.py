"""The commands of `python -m ebm_mmdet`. Heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import box_files, heads, predictions

__all__ = ["main", "parser"]

_GROUPS = (heads, predictions, box_files)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    everything = argparse.ArgumentParser(
        prog="python -m ebm_mmdet",
        description="Without a command: versions, operators in use, and conflicts.",
    )
    commands = everything.add_subparsers(dest="command", metavar="COMMAND")
    for group in _GROUPS:
        group.add_parsers(commands)
    return everything


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, 1 after an error that the user can mend, or 130 after Ctrl-C."""
    arguments = parser()
    args = arguments.parse_args(argv)
    if args.command is None:
        from ..diagnosis import main as diagnose

        return diagnose()
    try:
        run = {name: run for group in _GROUPS for name, run in group.COMMANDS.items()}
        run[args.command](args)
    except KeyboardInterrupt:
        print(f"{arguments.prog} {args.command}: interrupted", file=sys.stderr)
        return 130
    except SyntaxError as error:  # the interpreter has no name of the file
        print(f"{arguments.prog} {args.command}: in the config: {error}", file=sys.stderr)
        return 1
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"{arguments.prog} {args.command}: {error}", file=sys.stderr)
        return 1
    return 0
