"""Images per second of any detector, with batch size 1, with and without post-processing.

    python tools/analysis_tools/throughput.py CONFIG --checkpoint CKPT     # images of the config's test data set
    python tools/analysis_tools/throughput.py CONFIG --shape 480 640       # noise of this size, no data needed

Three times are taken in turns on every image, each after the device has finished all earlier work and until it has
finished this: the network alone (from the preprocessed image to its raw outputs), the network with
post-processing (decoding, NMS, refinement), and the whole step (with preprocessing too). Loading is never
included. The number of boxes decides how long post-processing takes, so without a checkpoint the second and
third are not those of the trained model.
"""  # noqa: E501

from __future__ import annotations

import argparse
import copy
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from torch import nn

import ebm_mmdet  # noqa: F401  (registers our types)
from ebm_mmdet.apis.timing import take_turns
from ebm_mmdet.apis.trained_detector import load_detector
from ebm_mmdet.datasets import AnnotationError, use_checked_annotations
from ebm_mmdet.engine import CheckpointError
from ebm_mmdet.engine.config_options import OptionsAction, UsageError, merge_options
from ebm_mmdet.files import write_json

PARTS = ("network", "with post-processing", "whole step")


def measure(model: nn.Module, items: Iterable[dict], warmup: int = 5) -> dict[str, dict]:
    """Time a model on every item of a data set, after some for warming up.

    Args:
        model: in eval mode, on the device to measure.
        items: what a data set gives, ``inputs`` and ``data_samples``.
        warmup: number of items at the beginning that are not counted.

    Returns:
        For each of ``PARTS``: ``images_per_s`` (of the median time), ``median_ms``, ``quarter_ms``
        and ``three_quarters_ms`` (quartiles over the images), and ``images``.

    Raises:
        ValueError: no item is left after the warm-up.
    """

    def network(batch: tuple[dict, dict]) -> None:
        model(batch[1]["inputs"], batch[1]["data_samples"], mode="tensor")

    def with_postprocessing(batch: tuple[dict, dict]) -> None:
        model(batch[1]["inputs"], batch[1]["data_samples"], mode="predict")

    def whole_step(batch: tuple[dict, dict]) -> None:
        model.test_step(batch[0])

    def batches():
        for item in items:
            batch = pseudo_collate([item])
            yield batch, model.data_preprocessor(copy.deepcopy(batch), False)

    with torch.inference_mode():
        seconds = take_turns([network, with_postprocessing, whole_step], batches())[:, warmup:]
    if not seconds.shape[1]:
        raise ValueError(f"no image is left after {warmup} for warming up; give more --images")
    quartiles = 1e3 * np.quantile(seconds, [0.25, 0.5, 0.75], axis=1).T
    return {
        part: dict(
            images_per_s=round(1e3 / median, 2),
            median_ms=round(median, 3),
            quarter_ms=round(low, 3),
            three_quarters_ms=round(high, 3),
            images=seconds.shape[1],
        )
        for part, (low, median, high) in zip(PARTS, quartiles.tolist())
    }


def noise(shape: tuple[int, int], count: int) -> Iterable[dict]:
    """Items with images of noise.

    Args:
        shape: (height, width).
        count: number of items.
    """
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        sample = DetDataSample(
            metainfo=dict(
                img_id=number,
                ori_shape=shape,
                img_shape=shape,
                scale_factor=(1.0, 1.0),
                batch_input_shape=shape,
            )
        )
        inputs = torch.randint(0, 256, (3, *shape), generator=generator, dtype=torch.uint8)
        yield dict(inputs=inputs, data_samples=sample)


def images_of(cfg: Config, count: int) -> Iterable[dict]:
    """The first items of the config's test data set, from the beginning again at its end.

    Raises:
        FileNotFoundError: its files do not exist.
    """
    use_checked_annotations()
    dataset = DATASETS.build(copy.deepcopy(cfg.test_dataloader.dataset))
    return (dataset[number % len(dataset)] for number in range(count))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="a config file, or ebm_mmdet::FOLDER/NAME.py")
    parser.add_argument("--checkpoint", help="trained weights; default: those of initialisation")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="time images of noise of this size instead of the test data set",
    )
    parser.add_argument("--images", type=int, default=50, help="timed (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=5, help="before (default: %(default)s)")
    parser.add_argument("--device", help="default: cuda if there is one, else cpu")
    parser.add_argument("--threads", type=int, help="of the CPU; default: torch's own choice")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers; must not exist")
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE")
    args = parser.parse_args(argv)
    if args.out and args.out.exists():
        parser.error(f"--out {args.out} exists; name a new file, or move that one away")
    if args.images < 1 or args.warmup < 0:
        parser.error(
            f"--images {args.images} must be at least 1, --warmup {args.warmup} at least 0"
        )
    if args.shape and min(args.shape) < 1:
        parser.error(f"--shape {args.shape[0]} {args.shape[1]}: must be positive")
    return args


def main(argv: list[str] | None = None) -> dict:
    """Measure, print and return the numbers."""
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    register_all_modules()
    try:
        cfg = get_config(args.config) if "::" in args.config else Config.fromfile(args.config)
        merge_options(cfg, args.cfg_options)
        init_default_scope(cfg.get("default_scope", "mmdet"))
        count = args.images + args.warmup
        items = noise(tuple(args.shape), count) if args.shape else images_of(cfg, count)
        model = load_detector(cfg, args.checkpoint, device)
        parts = measure(model, itertools.islice(items, count), args.warmup)
    except FileNotFoundError as error:
        sys.exit(f"throughput: {error}. Without data, give --shape HEIGHT WIDTH")
    except (AnnotationError, CheckpointError, UsageError) as error:
        sys.exit(f"throughput: {error}")
    result = dict(
        config=args.config,
        checkpoint=args.checkpoint,
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        threads=torch.get_num_threads(),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        parts=parts,
    )
    print(f"{result['parameters'] / 1e6:.2f} M parameters, {result['device']}, batch size 1")
    for part, values in parts.items():
        print(
            f"{part:22s}{values['images_per_s']:9.2f} images/s{values['median_ms']:10.2f} ms "
            f"(middle half {values['quarter_ms']:.2f} to {values['three_quarters_ms']:.2f}, "
            f"{values['images']} images)"
        )
    if args.out:
        write_json(args.out, result)
    return result


if __name__ == "__main__":
    main()
