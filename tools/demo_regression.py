#!/usr/bin/env python
"""Numbers from images, with their densities: `make demo-regression`.

Images are generated: cells that may hide twins, a road with forks and fog, and a translucent head.
For each of them a direct regressor, a Gaussian and an energy with a learned proposal are trained,
and compared with the true density. Nothing is downloaded and no GPU is needed. After an
interruption, run it again to continue.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.command_line import run_command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("work_dirs/demo_regression"),
        help="output folder (default: %(default)s); a finished run in it is kept, and the new one "
        "goes to a numbered folder beside it",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=2,
        help="trainings at a time, on one core each (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: must be at least 1")
    return args


def main(argv: list[str] | None = None) -> None:
    """Run the demo; report errors that the user can fix in one line."""
    args = parse_args(argv)
    from mmdet.utils import register_all_modules

    import ebm_mmdet  # noqa: F401  (registers our types)
    from ebm_mmdet.engine import CheckpointError
    from lab.regression.demo import run_demo

    register_all_modules()
    run_command("demo_regression", lambda: run_demo(args.out, args.jobs), CheckpointError)


if __name__ == "__main__":
    main()
