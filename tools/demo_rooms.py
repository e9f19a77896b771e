#!/usr/bin/env python
"""Train SSD, flat multi-task learning and ROCK on generated rooms, compare, draw: `make demo-rooms`.

Nothing is downloaded, no GPU is needed, and one seed takes about ten minutes on 2 cores. After an interruption, run it
again to continue.
"""  # noqa: E501

from __future__ import annotations

import argparse

from lab.command_line import ROOT, run_command
from lab.demo.command import demo_parser

STUDY = ROOT / "configs" / "rock" / "rooms_study.yaml"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    return demo_parser("demo_rooms", __doc__).parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the demo; report errors that the user can fix in one line."""
    args = parse_args(argv)
    from ebm_mmdet.engine import CheckpointError
    from lab.demo.rooms import run_rooms_demo

    def run() -> None:
        run_rooms_demo(STUDY, args.out, args.seeds, args.page)

    run_command("demo_rooms", run, CheckpointError)


if __name__ == "__main__":
    main()
