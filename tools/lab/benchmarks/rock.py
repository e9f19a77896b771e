#!/usr/bin/env python
"""What ROCK costs: a training step and a forward pass beside those of the plain SSD, in turns.

    python tools/lab/benchmarks/rock.py                    # both sizes
    python tools/lab/benchmarks/rock.py --sizes rooms      # 96 x 128, the small models
    python tools/lab/benchmarks/rock.py --sizes nyuv2      # 480 x 640, ResNet-50

A training step is forward, backward and optimiser, of a batch with the truth of every task; a forward pass is the network of
one image, without post-processing. The goal is at most 1.25 times and 1.2 times the SSD; from the reference's published
times, 3.3 h against 2.9 h and 55.8 against 65.9 images per second, follow 1.14 and 1.18.
"""  # noqa: E501

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.structures import LabelData, PixelData

import ebm_mmdet  # noqa: F401  (registers our types)
from ebm_mmdet.apis.timing import take_turns

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "rock"
# Names of the configs, image size, stride of the map, batch, repeats of a step and of a pass.
SIZES = {
    "rooms": ("rooms_ssd", "rooms_rock", (96, 128), 8, 8, 30, 60),
    "nyuv2": (
        "ssd_r50_480x640_30k_nyuv2",
        "rock_ssd_r50_480x640_30k_nyuv2",
        (480, 640),
        16,
        2,
        4,
        8,
    ),
}
GOALS = {"training step": 1.25, "forward pass": 1.2}


def batch(size: tuple[int, int], stride: int, count: int, classes: int) -> dict:
    """Images of noise with boxes and with the truth of every task."""
    data = demo_mm_inputs(count, [(3, *size)] * count, num_items=[4] * count)
    h, w = size[0] // stride, size[1] // stride
    for sample in data["data_samples"]:
        sample.gt_instances.labels %= classes
        sample.gt_scene = LabelData(label=torch.tensor([1]))
        sample.gt_depth = PixelData(depth=1 + torch.rand(1, h, w))
        normals = torch.nn.functional.normalize(torch.randn(3, h, w), dim=0)
        mask = torch.ones(1, h, w, dtype=torch.bool)
        sample.gt_normals = PixelData(normals=normals, mask=mask)
    return data


def measure(size: str, device: str) -> dict[str, tuple[float, float]]:
    """Median milliseconds of the SSD and of ROCK, for each of ``GOALS``."""
    *names, shape, stride, images, steps, passes = SIZES[size]
    torch.manual_seed(0)
    models, optimizers = [], []
    for name in names:
        cfg = Config.fromfile(CONFIGS / f"{name}.py")
        models.append(MODELS.build(cfg.model).to(device))
        optimizers.append(build_optim_wrapper(models[-1], cfg.optim_wrapper))
    head = models[0].bbox_head

    def step(model, optimizer):
        return lambda data: model.train_step(data, optimizer)

    def network(model):
        return lambda data: model(data, mode="tensor")

    found = {}
    for model in models:
        model.train()
    # The first two make the optimisers' state and warm up.
    data = [batch(shape, stride, images, head.num_classes)] * (steps + 2)
    seconds = take_turns([step(*pair) for pair in zip(models, optimizers)], data)[:, 2:]
    found["training step"] = tuple(1e3 * np.median(seconds, axis=1))
    for model in models:
        model.eval()
    inputs = [torch.randn(1, 3, *shape, device=device)] * (passes + 2)
    with torch.inference_mode():
        seconds = take_turns([network(model) for model in models], inputs)[:, 2:]
    found["forward pass"] = tuple(1e3 * np.median(seconds, axis=1))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    register_all_modules()
    MMLogger.get_instance(
        "rock", log_level="WARNING"
    )  # building optimisers writes hundreds of lines
    print(f"{args.device}, {torch.get_num_threads()} CPU threads, medians, SSD and ROCK in turns")
    for size in args.sizes:
        images = SIZES[size][4]
        for what, (ssd, rock) in measure(size, args.device).items():
            of = f"{images} images" if what == "training step" else "1 image"
            print(
                f"{size:6s} {what:14s}{of:9s} SSD {ssd:8.1f} ms  ROCK {rock:8.1f} ms  "
                f"{rock / ssd:.2f} times (goal {GOALS[what]})",
                flush=True,
            )


if __name__ == "__main__":
    main()
