#!/usr/bin/env python
"""Prepare a folder in KITTI's layout for mmdet3d: reduced scans, info files, object database.

    python tools/dataset_converters/create_kitti_infos.py data/kitti --database
    python tools/dataset_converters/create_kitti_infos.py /read/only/kitti --out data/kitti
    python tools/dataset_converters/create_kitti_infos.py data/kitti --generate train=400 val=100

No GPU is needed. The last form first fills the folder with generated scenes, which need no
download. mmdet3d's KITTI configs, and those in configs/ebm3d, read data/kitti.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path


def split_and_count(text: str) -> tuple[str, int]:
    """Parse an argument such as ``train=400``."""
    split, separator, count = text.partition("=")
    if not separator or not split or not count.isdigit() or int(count) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected SPLIT=NUMBER, such as train=400")
    return split, int(count)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder in KITTI's layout")
    parser.add_argument(
        "--out",
        type=Path,
        help="output folder, the data_root of configs (default: ROOT, which may be read-only "
        "otherwise)",
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        metavar="SPLIT",
        help="files of ROOT/ImageSets to prepare (default: all)",
    )
    parser.add_argument(
        "--database",
        action="store_true",
        help="cut out the objects of the split train, for ground-truth sampling",
    )
    parser.add_argument(
        "--generate",
        nargs="+",
        type=split_and_count,
        metavar="SPLIT=NUMBER",
        help="first make ROOT from these numbers of generated scenes",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the generated scenes (default: 0)")
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: must be at least 0")
    return args


def main(argv: list[str] | None = None) -> None:
    """Prepare the folder; report errors that the user can fix in one line."""
    args = parse_args(argv)
    # For a script, Python searches its own folder, not the one in which it is part of a package.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from dataset_converters.kitti_preparation import KittiError, prepare_kitti
    from dataset_converters.kitti_writer import write_kitti

    start = time.monotonic()
    try:
        if args.generate:
            counts = dict(args.generate)
            print(f"generating {sum(counts.values())} scenes in {args.root}", flush=True)
            write_kitti(args.root, counts, args.seed)
        for path in prepare_kitti(args.root, args.out, args.splits, args.database):
            print(path)
    except (KittiError, FileExistsError) as error:
        sys.exit(f"create_kitti_infos: {error}")
    print(f"done in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
