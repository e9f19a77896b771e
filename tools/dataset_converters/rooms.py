#!/usr/bin/env python
r"""Generated rooms (`RoomScenesDataset`) as files, in the layout of the converted NYUv2.

    python tools/dataset_converters/rooms.py --out data/rooms

Written are images/, depth/, normals/, normals_mask/ and annotations/instances_{train,val}.json; the
data set to read them is NYUv2Dataset. Size, numbers and seeds are by default those of
configs/rock/rooms_*.py, some 25 MB per 1,000 rooms; all else is RoomOptions' default unless
--options says otherwise:

    --options nuisance=0.25 materials=20,30 min_pixels=60 min_visible=0.4    # as in the recipes

If the run is interrupted, the same command continues it. Nothing is overwritten.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmengine.config import DictAction


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--train", type=int, default=2000, help="images to train on; 0 for none")
    parser.add_argument("--val", type=int, default=400, help="images to validate on; 0 for none")
    parser.add_argument("--train-seed", type=int, default=0, help="number of the endless set")
    parser.add_argument("--val-seed", type=int, default=1_000_000, help="another number")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(96, 128), metavar=("HEIGHT", "WIDTH"), help="pixels"
    )
    parser.add_argument(
        "--options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="attributes of ebm_mmdet.datasets.rooms.RoomOptions",
    )
    parser.add_argument(
        "--missing",
        action="append",
        type=share_of,
        default=[],
        metavar="NAME=SHARE",
        help="share of the training images that lack depth, normals or scene, as depth=0.5; can be "
        "given several times",
    )
    args = parser.parse_args(argv)
    if args.train_seed == args.val_seed and args.train and args.val:
        parser.error(f"--train-seed and --val-seed are both {args.val_seed}: the same rooms")
    return args


def share_of(text: str) -> tuple[str, float]:
    """Name and share of ``NAME=SHARE``."""
    name, _, share = text.partition("=")
    try:
        return name, float(share)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; expected NAME=SHARE, as depth=0.5") from None


def main(argv: list[str] | None = None) -> None:
    """Write the sets; report errors that the user can fix in one line."""
    args = parse_args(argv)
    import mmengine

    from ebm_mmdet.datasets.rooms import RoomOptions, write_rooms

    try:
        options = RoomOptions.from_config({"image_size": args.size, **args.options})
        for split, number, seed, lacks in (
            ("train", args.train, args.train_seed, dict(args.missing)),
            ("val", args.val, args.val_seed, {}),
        ):
            if number:
                print(f"{split}: {number} rooms", flush=True)
                path = write_rooms(
                    args.out, split, number, seed, options, lacks, mmengine.track_iter_progress
                )
                print(f"\n{path}")
    except (KeyError, TypeError, ValueError, OSError) as error:
        sys.exit(f"rooms: {error.args[0] if isinstance(error, KeyError) else error}")
    except KeyboardInterrupt:
        sys.exit("\nrooms: interrupted; the same command continues it")


if __name__ == "__main__":
    main()
