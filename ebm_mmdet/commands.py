"""The commands of `python -m ebm_mmdet`. Heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import box_commands

__all__ = ["main", "parser"]


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    everything = argparse.ArgumentParser(
        prog="python -m ebm_mmdet",
        description="Without a command: versions, operators in use, and conflicts.",
    )
    commands = everything.add_subparsers(dest="command", metavar="COMMAND")

    inspect = commands.add_parser(
        "inspect",
        help="which maps of a detector an energy head would read, and why",
        description="List a detector's maps, and what an energy head on it would be set to. Needs "
        "no checkpoint and no data.",
    )
    inspect.add_argument("config", help="a config file, or the name of a packaged one: mmdet::NAME")

    _add_object_size(inspect)

    add = commands.add_parser(
        "add-head",
        help="write the config of a detector with an energy head",
        description="Write NAME_ebm.py, which inherits from the detector's config; tools/train.py "
        "trains it. An existing file is not overwritten.",
    )
    add.add_argument("config", help="the detector's config")
    add.add_argument("checkpoint", help="the detector's checkpoint")
    add.add_argument("--out", help="the file to write; default: NAME_ebm.py beside NAME.py")
    add.add_argument("--max-iters", type=int, default=10000, help="length of the training")
    _add_object_size(add)

    fit = commands.add_parser(
        "fit",
        help="train and tune an energy head within a time, and say whether it pays",
        description="Train an energy head on a frozen detector, tune its refinement, compare it "
        "with simpler corrections on the validation images, and leave config, checkpoint, pictures "
        "and a page. The same command goes on where an interrupted one was.",
    )
    fit.add_argument("config", help="the detector's config")
    fit.add_argument("checkpoint", help="the detector's checkpoint")
    fit.add_argument("--minutes", type=float, default=20.0, help="time for all of it; default: 20")
    fit.add_argument("--cache-gb", type=float, default=4.0, help="memory for features; default: 4")
    fit.add_argument("--out-dir", help="folder of the results; default: NAME_fit")
    fit.add_argument("--device", help="cpu or cuda:0; default: a GPU if there is one")
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument("--max-iters", type=int, default=10000, help="most iterations of the training")

    predict = commands.add_parser(
        "predict",
        help="detect and refine on images",
        description="Detect and refine; write pictures, a file in COCO's format, and scene, depth "
        "and normals of a model that predicts them. The same command goes on where an interrupted "
        "one was.",
    )
    predict.add_argument("config", help="config of a detector, with an energy head or without")
    predict.add_argument("checkpoint", help="its checkpoint")
    predict.add_argument("images", nargs="+", help="image files, folders, or patterns with *")
    predict.add_argument("--out-dir", required=True, help="a new or empty folder for the results")
    predict.add_argument("--no-refine", action="store_true", help="the detector's boxes alone")
    predict.add_argument("--refine-steps", type=int, help="steps instead of the config's")
    predict.add_argument("--score-thr", type=float, default=0.3, help="lowest score in pictures")
    predict.add_argument("--batch-size", type=int, default=1)
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
    box_commands.add_parsers(commands)
    return everything


def _add_object_size(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--object-size",
        type=float,
        metavar="PX",
        help="usual side of an object in pixels of the network's input; small ones are read on a "
        "finer map as well (fit measures it)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, 1 after an error that the user can mend, or 130 after Ctrl-C."""
    arguments = parser()
    args = arguments.parse_args(argv)
    if args.command is None:
        from .diagnosis import main as diagnose

        return diagnose()
    try:
        _COMMANDS[args.command](args)
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


def _config(name: str):
    from mmengine.config import Config
    from mmengine.hub import get_config

    return get_config(name) if "::" in name else Config.fromfile(name)


def _is_3d(cfg) -> bool:
    """Whether a config is that of mmdet3d; raises ``ImportError`` if it is and that is absent."""
    if str(cfg.get("default_scope")) != "mmdet3d":
        return False
    # The packages of 3D stand above this one, and may be absent: this name says so then.
    from ebm_mmdet3d import EBM3DDetector  # noqa: F401

    return True


def _inspect(args: argparse.Namespace) -> None:
    cfg = _config(args.config)
    if _is_3d(cfg):
        from ebm_mmdet3d.inspection import inspect_config_3d

        print(inspect_config_3d(cfg).report())
        return
    from .apis import inspect_config

    print(inspect_config(cfg, args.object_size).report())


def _add_head(args: argparse.Namespace) -> None:
    if _is_3d(_config(args.config)):
        from ebm_mmdet3d.apis import write_energy_config_3d

        if args.object_size is not None:
            raise ValueError("--object-size is for images; in 3D there is one map to read")
        path = write_energy_config_3d(args.config, args.checkpoint, args.out, args.max_iters)
    else:
        from .apis import write_energy_config

        path = write_energy_config(
            args.config, args.checkpoint, args.out, args.max_iters, object_size=args.object_size
        )
    print(f"Wrote {path}. Train it with: python tools/train.py {path}")


def _fit(args: argparse.Namespace) -> None:
    if _is_3d(_config(args.config)):
        from ebm_mmdet3d.apis import fit_3d as fit
    else:
        from .apis import fit

    try:
        fit(
            args.config,
            args.checkpoint,
            args.out_dir,
            args.minutes,
            args.cache_gb,
            args.device,
            args.seed,
            args.max_iters,
            say=_say,
        )
    except KeyboardInterrupt:
        _say("what is done is kept; the same command goes on from there")
        raise


def _say(line: str) -> None:
    print(line, flush=True)


def _predict(args: argparse.Namespace) -> None:
    from .apis import EBMInferencer
    from .engine.command_line import merge_options, parse_options

    cfg = _config(args.config)
    if _is_3d(cfg):
        raise ValueError(
            "predict reads images; for LiDAR frames take mmdet3d's own init_model and "
            "inference_detector, or tools/test.py, which load a config with an energy head too"
        )
    merge_options(cfg, parse_options(args.cfg_options))
    inferencer = EBMInferencer(cfg, args.checkpoint, device=args.device)
    try:
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
    except KeyboardInterrupt:
        _say("what is done is kept; the same command goes on from there")
        raise
    count, failed = len(found["predictions"]), len(found["failed"])
    print(f"{count} images, results in {args.out_dir}" + (f"; {failed} failed" if failed else ""))
    for name, reason in found["failed"].items():
        print(f"  {name}: {reason}", file=sys.stderr)
    if failed:
        raise ValueError(f"{failed} images could not be read, see above")


def _calibrate(args: argparse.Namespace) -> None:
    cfg = _config(args.config)
    if _is_3d(cfg):
        _calibrate_3d(cfg, args)
        return
    from .apis import calibrate
    from .engine import usable_device

    usable_device(args.device)  # before the data is read

    if args.undirected:
        raise ValueError("--undirected is for the yaw of 3D boxes, and this is a config for images")
    try:
        calibrate(
            args.config,
            args.checkpoint,
            args.ann,
            args.images,
            args.out,
            args.level,
            args.joint,
            args.spread,
            args.by_image,
            args.score_thr,
            args.iou_thr,
            args.min_count,
            args.device,
            say=_say,
        )
    except KeyboardInterrupt:
        _say("what is done is kept; the same command goes on from there")
        raise


def _calibrate_3d(cfg, args: argparse.Namespace) -> None:
    from ebm_mmdet3d.apis import calibrate_3d

    if args.images:
        raise ValueError("--images is for images; the frames are where the config's data set is")
    calibrate_3d(
        cfg,
        args.checkpoint,
        args.ann,
        args.out,
        args.level,
        args.joint,
        args.spread,
        args.by_image,
        args.score_thr,
        args.iou_thr,
        args.min_count,
        args.undirected,
        args.device,
        say=_say,
    )


_COMMANDS = {
    "add-head": _add_head,
    "calibrate": _calibrate,
    "fit": _fit,
    "inspect": _inspect,
    "predict": _predict,
    **box_commands.COMMANDS,
}
