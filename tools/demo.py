#!/usr/bin/env python
"""Train a small detector and its energy head, refine, evaluate, draw: what `make demo` runs.

Without --data, shapes are generated. Nothing is downloaded, no GPU is needed, and one seed takes
some minutes on 2 cores. Run it again after an interruption, and it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: 1)")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="your own folder in COCO format: DIR/annotations/train.json, "
        "DIR/annotations/val.json, images in DIR/images",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("work_dirs/demo"),
        help="output folder (default: work_dirs/demo); a finished run in it is kept, and the "
        "new one goes to a numbered folder beside it",
    )
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds}: at least 1")
    return args


def main(argv: list[str] | None = None) -> None:
    """Run the demo; turn what a user can mend into one line."""
    args = parse_args(argv)
    from ebm_mmdet.engine import CheckpointError
    from lab.demo import DataError, run_demo

    try:
        run_demo(
            ROOT / "configs" / "demo",
            args.out,
            num_seeds=args.seeds,
            data=args.data,
            results_page=ROOT / "docs" / "results.md",
        )
    except (DataError, CheckpointError) as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted; the same command goes on from here")


if __name__ == "__main__":
    main()
