#!/usr/bin/env python
"""Train a small 3D detector and its energy head, refine, evaluate, draw: `make demo3d`.

LiDAR scenes are generated. Nothing is downloaded, no GPU is needed, and one seed takes some minutes
on 2 cores. After an interruption, run it again to continue.
"""

from __future__ import annotations

import argparse
import sys

from lab.command_line import run_command
from lab.demo.command import CONFIGS, demo_parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    return demo_parser("demo3d", __doc__).parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the demo; report errors that the user can fix in one line."""
    args = parse_args(argv)
    try:
        from ebm_mmdet.engine import CheckpointError
        from lab.demo.lidar import LidarWorld
        from lab.demo.run import run_demo
    except ModuleNotFoundError as error:
        sys.exit(f"demo3d: {error}; `pip install 'ebm-mmdet[3d]'` installs what 3D needs")

    def run() -> None:
        run_demo(LidarWorld(), CONFIGS, args.out, args.seeds, args.page)

    run_command("demo3d", run, CheckpointError)


if __name__ == "__main__":
    main()
