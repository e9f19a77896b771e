#!/usr/bin/env python
"""Predict the images of a folder, or one image, with any detector of this project or of mmdet.

    tools/predict_images.py CONFIG CHECKPOINT IMAGES --out DIR

DIR gets a picture with boxes for each image, the boxes as JSON, and, if the model predicts them, a list of scene
types (.txt), depth and surface normals (.png to look at, .npy to compute with). DIR must be new or empty. After an
interruption, run the same command again to continue.
"""  # noqa: E501

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mmengine.config import DictAction


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="a config file, or ebm_mmdet::FOLDER/NAME.py")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("images", type=Path, help="folder of images, or one image")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder")
    parser.add_argument(
        "--score-thr", type=float, default=0.4, help="of boxes (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Predict all images; report errors that the user can fix in one line."""
    args = parse_args(argv)
    from mmengine.config import Config
    from mmengine.hub import get_config

    import ebm_mmdet  # noqa: F401  (registers our types)
    from ebm_mmdet.apis.prediction_folder import FolderError
    from ebm_mmdet.engine import CheckpointError
    from ebm_mmdet.engine.command_line import UsageError, merge_options

    try:
        cfg = get_config(args.config) if "::" in args.config else Config.fromfile(args.config)
        merge_options(cfg, args.cfg_options)
        predict(cfg, args)
    except (FolderError, CheckpointError, FileNotFoundError, UsageError) as error:
        sys.exit(f"predict_images: {error}")
    except KeyboardInterrupt:
        sys.exit("predict_images: interrupted; the same command goes on from here")


def predict(cfg, args: argparse.Namespace) -> None:
    """Predict all images of ``args`` that have no results yet."""
    import torch
    from mmdet.utils import register_all_modules
    from mmengine.dataset import pseudo_collate

    from ebm_mmdet.apis.prediction_folder import PredictionFolder, find_images
    from ebm_mmdet.apis.trained_detector import image_pipeline, load_detector

    register_all_modules()
    paths = find_images(args.images)
    settings = dict(
        config=os.path.abspath(cfg.filename),
        cfg_options={key: str(value) for key, value in (args.cfg_options or {}).items()},
        checkpoint=os.path.abspath(args.checkpoint),
        images=os.path.abspath(args.images),
        score_thr=args.score_thr,
    )
    model, load = load_detector(cfg, args.checkpoint, args.device), image_pipeline(cfg)
    folder = PredictionFolder(args.out, settings, model.dataset_meta, args.score_thr)
    remaining = [path for path in paths if not folder.has(path)]
    if len(remaining) < len(paths):
        print(f"{len(paths) - len(remaining)} of {len(paths)} images are done already")
    for number, path in enumerate(remaining):
        with torch.inference_mode():
            (sample,) = model.test_step(pseudo_collate([load(path, number)]))
        folder.write(path, sample)
        print(f"{number + 1}/{len(remaining)} {path.name}", flush=True)
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
