#!/usr/bin/env python
"""Train a small detector and its energy head, refine, evaluate, draw: `make demo`.

Without --data, shapes are generated. Nothing is downloaded, no GPU is needed, and one seed takes
some minutes on 2 cores. After an interruption, run it again to continue.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.command_line import run_command
from lab.demo.command import CONFIGS, demo_parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = demo_parser("demo", __doc__)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="your own folder in COCO format: DIR/annotations/train.json, "
        "DIR/annotations/val.json, images in DIR/images",
    )
    args = parser.parse_args(argv)
    if args.page and args.data:
        parser.error(f"--page {args.page} is for the generated shapes, not for --data {args.data}")
    return args


def main(argv: list[str] | None = None) -> None:
    """Run the demo; report errors that the user can fix in one line."""
    args = parse_args(argv)
    from ebm_mmdet.engine import CheckpointError
    from lab.demo.run import run_demo
    from lab.demo.shapes import ShapesWorld
    from lab.demo.world import DataError

    def run() -> None:
        world = ShapesWorld(args.data)
        run_demo(world, CONFIGS, args.out, args.seeds, args.page)

    run_command("demo", run, DataError, CheckpointError)


if __name__ == "__main__":
    main()
