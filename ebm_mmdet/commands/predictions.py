"""The commands `predict` and `calibrate`, which take a trained model and images."""

from __future__ import annotations

import argparse
import sys

from .shared import is_3d, kept_on_interruption, read_config, say

__all__ = ["COMMANDS", "add_parsers"]


def add_parsers(commands) -> None:
    """Add the parsers of both to the sub-parsers of the command line."""
    predict = commands.add_parser(
        "predict",
        help="detect and refine on images",
        description="Detect and refine; write pictures, a file in COCO's format, and scene, depth "
        "and normals of a model that predicts them. The same command goes on where an interrupted "
        "one was, and with images that could not be read.",
    )
    predict.add_argument("config", help="config of a detector, with an energy head or without")
    predict.add_argument("checkpoint", help="its checkpoint")
    predict.add_argument("images", nargs="+", help="image files, folders, or patterns with *")
    predict.add_argument("--out-dir", required=True, help="a new or empty folder for the results")
    predict.add_argument("--no-refine", action="store_true", help="the detector's boxes alone")
    predict.add_argument("--refine-steps", type=int, help="steps instead of the config's")
    predict.add_argument("--score-thr", type=float, default=0.3, help="lowest score in pictures")
    predict.add_argument("--batch-size", type=int, default=1, help="images at once; default: 1")
    predict.add_argument("--device", help="cpu or cuda:0; default: a GPU if there is one")
    predict.add_argument("--ann-file", help="COCO file whose image and category ids are used")
    predict.add_argument("--no-pictures", action="store_true", help="write no pictures")
    predict.add_argument(
        "--cfg-options", nargs="+", metavar="KEY=VALUE", help="override settings of the config"
    )

    calibrate = commands.add_parser(
        "calibrate",
        help="intervals of box sides that hold with a given probability",
        description="Calibrate on annotated images that the model has not seen, and write a new "
        "checkpoint, whose predictions have side_interval, or with 3D boxes dim_interval.",
    )
    calibrate.add_argument("config", help="config of a detector, with an energy head or without")
    calibrate.add_argument("checkpoint", help="its checkpoint, which does not change")
    calibrate.add_argument("--ann", help="COCO file; default: the test data of the config")
    calibrate.add_argument("--images", help="folder of its images; default: that of the config")
    calibrate.add_argument("--out", help="checkpoint to write; default: NAME_intervals.pth")
    calibrate.add_argument("--level", type=float, default=0.9, help="probability; default: 0.9")
    calibrate.add_argument(
        "--joint", action="store_true", help="of all four sides (in 3D: seven numbers) at once"
    )
    calibrate.add_argument(
        "--spread",
        choices=("std", "samples", "size", "pixels", "metres"),
        help="what widths are proportional to; default: std if the model gives it, else size; in "
        "3D std or metres",
    )
    calibrate.add_argument(
        "--undirected", action="store_true", help="in 3D: front and back of an object are the same"
    )
    calibrate.add_argument(
        "--by-image", action="store_true", help="of a random detection of a random image"
    )
    calibrate.add_argument("--score-thr", type=float, default=0.3, help="lowest score")
    calibrate.add_argument("--iou-thr", type=float, default=0.5, help="smallest IoU of a match")
    calibrate.add_argument(
        "--min-count", type=int, default=100, help="fewest detections for bounds of their own"
    )
    calibrate.add_argument("--device", help="cpu or cuda:0; default: a GPU if there is one")


def _predict(args: argparse.Namespace) -> None:
    from ..apis import EBMInferencer
    from ..engine.config_options import merge_options, parse_options

    cfg = read_config(args.config)
    if is_3d(cfg):
        raise ValueError(
            "predict reads images; for LiDAR frames take mmdet3d's own init_model and "
            "inference_detector, or tools/test.py, which load a config with an energy head too"
        )
    merge_options(cfg, parse_options(args.cfg_options))
    inferencer = EBMInferencer(cfg, args.checkpoint, device=args.device)
    with kept_on_interruption():
        found = inferencer(
            args.images,
            batch_size=args.batch_size,
            out_dir=args.out_dir,
            refine=not args.no_refine,
            refine_steps=args.refine_steps,
            pred_score_thr=args.score_thr,
            ann_file=args.ann_file,
            no_save_vis=args.no_pictures,
        )
    count, failed = len(found["predictions"]), len(found["failed"])
    print(f"{count} images, results in {args.out_dir}" + (f"; {failed} failed" if failed else ""))
    for name, reason in found["failed"].items():
        print(f"  {name}: {reason}", file=sys.stderr)
    if failed:
        raise ValueError(
            f"{failed} images could not be read, see above; once they can, the same command does "
            "these alone"
        )


def _calibrate(args: argparse.Namespace) -> None:
    from ..engine import usable_device

    cfg = read_config(args.config)
    device = usable_device(args.device)  # before the data is read
    options = dict(
        ann_file=args.ann,
        out=args.out,
        level=args.level,
        joint=args.joint,
        spread=args.spread,
        by_image=args.by_image,
        score_thr=args.score_thr,
        iou_thr=args.iou_thr,
        min_count=args.min_count,
        device=device,
        say=say,
    )
    if is_3d(cfg):
        from ebm_mmdet3d.apis import calibrate_3d as calibrate

        if args.images:
            raise ValueError("--images is for images; the frames are where the config's data is")
        options["undirected"] = args.undirected
    else:
        from ..apis import calibrate

        if args.undirected:
            raise ValueError("--undirected is for the yaw of 3D boxes; this config is for images")
        options["images"] = args.images
    with kept_on_interruption():
        calibrate(cfg, args.checkpoint, **options)


COMMANDS = {"calibrate": _calibrate, "predict": _predict}
