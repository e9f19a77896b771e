r"""What the precisions of a climb as one CUDA graph cost in AP, on a machine without a GPU.

    make demo
    python tools/lab/benchmarks/precision.py configs/demo/shapes_ebm.py \
        work_dirs/demo/seed0/energy_head/iter_600.pth [--images 150]

All rows refine the same detections:

- the loop in float32, as it is without a graph;
- float32 as it would be recorded: a fixed number of boxes, filled up, on maps in larger buffers,
  none left out on the way;
- `tf32`, both factors of the trunk's products rounded to 10 bits after the leading one, summed in
  float32;
- `bf16x2`, weights and maps in bfloat16, activations as a sum of two.

What is emulated are the trunk's products, forwards and backwards, of any head. A graph without the
fused kernels (`docs/speed.md`) has no `bf16x2`, and has products of other layers in `tf32` too.
Distances are between boxes with a score of at least 0.3 and those
of the loop, largest of four sides, in pixels of the image.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from acceleration import load
from mmdet.registry import METRICS
from mmengine.config import Config, DictAction
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # tools/, which contains lab

from _emulated_graph import fixed_climb, rounded_climb

from ebm_mmdet.energy import Refiner, evaluate_only
from ebm_mmdet.models import EBMDetector, GradientAscentRefiner
from lab.demo.evaluate import build_metric, metric_values, val_loader
from lab.demo.shapes.evaluate import METRICS_SHOWN

NEAR, SCORE = 0.05, 0.3


class Row(NamedTuple):
    """A way of refining: its values of `METRICS_SHOWN`, and where boxes end beside the loop's."""

    name: str
    values: dict[str, float]
    near: float
    """Share of boxes within `NEAR` pixels."""
    farthest: float


def make_refiners(own: GradientAscentRefiner) -> dict[str, Refiner]:
    """The rows of the table by their names; the second is the loop.

    Raises:
        TypeError: the refiner does not climb.
    """
    if not isinstance(own, GradientAscentRefiner):
        raise TypeError(
            f"the refiner is a {type(own).__name__}; precisions are those of a climb, so choose a "
            "config with a GradientAscentRefiner"
        )
    return {
        "not refined": evaluate_only,
        "fp32, loop": own,
        "fp32, as recorded": fixed_climb(own),
        "tf32": rounded_climb(own, "tf32"),
        "bf16x2": rounded_climb(own, "bf16x2"),
    }


@torch.inference_mode()
def measure(model: EBMDetector, cfg: Config, images: int | None) -> list[Row]:
    """Refine the same detections in all ways."""
    loader, refiners = val_loader(cfg), make_refiners(model.refiner)
    metrics = [build_metric(METRICS, cfg.val_evaluator, loader) for _ in refiners]
    seen, boxes = [], [[] for _ in refiners]
    count = min(len(loader), images or len(loader))
    for batch in track(itertools.islice(loader, count), "images", count):
        data = model.data_preprocessor(copy.deepcopy(batch), False)
        feats, found, _ = model.detect(data["inputs"], data["data_samples"])
        for refiner, metric, ends in zip(refiners.values(), metrics, boxes):
            moved = model.move(feats, copy.deepcopy(found), rescale=True, refiner=refiner)
            metric.process(batch, [sample.to_dict() for sample in moved])
            ends += [_confident(sample.pred_instances) for sample in moved]
        seen += [sample.img_id for sample in found]
    loop, rows = torch.cat(boxes[1]), []
    for name, metric, ends in zip(refiners, metrics, boxes):
        metric.img_ids = seen  # else the images that are left out count as missed
        found = metric_values(metric, loader)
        apart = (torch.cat(ends) - loop).abs().amax(1)
        near = float((apart <= NEAR).float().mean())
        rows.append(Row(name, _shown(found), near, float(apart.max())))
    return rows


def _confident(instances) -> Tensor:
    return instances.bboxes[instances.scores >= SCORE]


def _shown(found: dict[str, float]) -> dict[str, float]:
    """Values of `METRICS_SHOWN`, in percent but for the mean IoU; NaN if the metric has none."""
    values = {name: float(found.get(key, float("nan"))) for name, key in METRICS_SHOWN.items()}
    return {name: x if "IoU" in name else 100 * x for name, x in values.items()}


def print_table(rows: Sequence[Row]) -> None:
    """The values, and how far boxes end from those of the loop."""
    table = Table()
    for heading in ("", *METRICS_SHOWN, f"within {NEAR} px", "farthest, px"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        values = (f"{x:.{4 if 'IoU' in name else 2}f}" for name, x in row.values.items())
        table.add_row(row.name, *values, f"{100 * row.near:.1f} %", f"{row.farthest:.3f}")
    Console(width=120).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all rows and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--images", type=int, help="of the validation set; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    print_table(measure(load(cfg, args.checkpoint), cfg, args.images))


if __name__ == "__main__":
    main()
