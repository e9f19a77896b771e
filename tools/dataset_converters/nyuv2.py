#!/usr/bin/env python
r"""NYUv2 (1,449 indoor images with objects, depth, normals and types of scene) in COCO format.

    python tools/dataset_converters/nyuv2.py nyu_depth_v2_labeled.mat splits.mat --out data/nyuv2 \
        --normals normals_gt.tgz --val-split val_split.txt

Sources (2.8 GB, 3 kB; optional: normals, and the scenes of a validation split):

    http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat
    http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat
    https://cs.nyu.edu/~deigen/dnl/normals_gt.tgz
    https://github.com/vita-epfl/rock-pytorch/releases/download/v0.1/val_split.txt

Written are images/, depth/, normals/ and normals_mask/ with one file for each image, named by its
number in NYUv2 from 0001, and annotations/instances_SPLIT.json: trainval (the official 795 images
to train on) and test (654), and with --val-split also train (673) and val (122), which divide
trainval by scene. The data set to read them is NYUv2Dataset.

One image at a time is in memory. If the run is interrupted, the same command continues it. Nothing
is overwritten: a folder with other content, or made from other sources or with other options, is
refused.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("labeled", type=Path, help="nyu_depth_v2_labeled.mat")
    parser.add_argument("splits", type=Path, help="splits.mat")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--normals", type=Path, help="normals_gt.tgz, or the folder in it")
    parser.add_argument("--val-split", type=Path, help="val_split.txt, one scene a line")
    parser.add_argument(
        "--box-convention",
        choices=("inclusive", "ref"),
        default="inclusive",
        help="inclusive (default): boxes contain their last row and column of pixels; ref: they "
        "are one pixel smaller, as in the reference implementation and its published results",
    )
    parser.add_argument(
        "--min-size",
        type=int,
        default=1,
        help="leave out objects with fewer rows or columns of pixels (default: 1, none)",
    )
    parser.add_argument(
        "--area",
        choices=("box", "mask"),
        default="box",
        help="area of an object: of its box (default), or the number of its pixels",
    )
    parser.add_argument(
        "--depth",
        choices=("npy", "png"),
        default="npy",
        help="npy (default): float32, metres; png: 16 bits, millimetres, a third of the size",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Convert the files; report errors that the user can fix in one line."""
    args = parse_args(argv)
    # For a script, Python searches its own folder, not the one in which it is part of a package.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from dataset_converters.nyuv2_conversion import convert, summary
    from dataset_converters.nyuv2_files.addresses import NYUv2Error
    from dataset_converters.nyuv2_files.objects import Options

    start = time.monotonic()
    try:
        options = Options(args.box_convention, args.min_size, args.area, args.depth)
        files = convert(args.labeled, args.splits, args.out, args.normals, args.val_split, options)
    except (NYUv2Error, OSError, ImportError) as error:
        sys.exit(f"nyuv2: {error}")
    except KeyboardInterrupt:
        sys.exit("\nnyuv2: interrupted; the same command continues it")
    print()
    for path in files:
        print(summary(path))
    print(f"done in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
