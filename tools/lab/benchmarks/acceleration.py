r"""Refinement beside the detector: time, evaluations of f, and the share of the gain that is kept.

    make demo
    python tools/lab/benchmarks/acceleration.py configs/demo/shapes_ebm.py \
        work_dirs/demo/seed0/energy_head/iter_600.pth \
        [--prior 0.03 0.03 0.06 0.06] [--projected CHECKPOINT] [--regression CHECKPOINT] \
        [--images 150]

All rows refine the same detections, one after another on each image, so that other work on the
machine affects them equally. Times are medians of processor time: of the detector alone, and of
everything that refinement adds (maps prepared, boxes moved, fields written). The gain is that of
the config's own refiner over the detections, in AP of all images; rows of another head or with a
prior refer to it too. The standard deviations of a prior are those that
`tools/analysis_tools/fit_residual_prior.py` prints; a projected head is one of the same config with
`--cfg-options model.energy_head.projection_channels=...`, and one without a regression has
`model.energy_head.regression=None`.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from mmdet.registry import METRICS
from mmdet.structures import SampleList
from mmengine.config import Config, DictAction
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # tools/, which contains lab

from ebm_mmdet.energy import Refiner, evaluate_only
from ebm_mmdet.engine import read_checkpoint
from ebm_mmdet.models import EBMDetector
from ebm_mmdet.models.task_modules import GradientAscentRefiner
from lab.demo.evaluate import build_metric, changed, load_model, metric_values, val_loader

Output = TypeVar("Output")
SHOWN = {"AP": "bbox_mAP", "AP75": "bbox_mAP_75", "AP90": "bbox_mAP_90"}


class Row(NamedTuple):
    """A way of refining."""

    name: str
    model: EBMDetector
    refiner: Refiner
    min_score: float = 0.0

    @property
    def evaluations(self) -> int:
        """Of f, with its gradient or without."""
        if self.refiner is evaluate_only:
            return 1
        first = self.refiner.regression_steps
        climb = self.refiner.num_steps
        return 1 + first + (climb + 1 if first and climb else climb)

    def refine(self, maps: Sequence[Tensor], found: SampleList, size: Sequence[int]) -> None:
        """Move detections in place, in maps of an input of this (height, width)."""
        self.model.min_score = self.min_score
        feats = self.model.energy_head.prepare(maps, input_shape=size)
        self.model.move(feats, found, rescale=True, refiner=self.refiner)


def make_rows(
    model: EBMDetector,
    projected: EBMDetector | None,
    min_score: float,
    prior_std: Sequence[float] | None = None,
    regressing: EBMDetector | None = None,
) -> list[Row]:
    """The rows of the table, the first without refinement and the second as configured."""
    own = model.refiner
    steps, size = own.num_steps, own.step_size

    def three(factor: float) -> GradientAscentRefiner:
        return changed(own, num_steps=3, step_size=factor * torch.as_tensor(size))

    rows = [
        Row("not refined", model, evaluate_only),
        Row(f"T = {steps}", model, own),
        *(Row(f"T = 3, steps x {factor:g}", model, three(factor)) for factor in (1, 2, 3)),
        Row("T = 3, Barzilai-Borwein", model, changed(own, num_steps=3, acceleration="bb")),
        Row(f"T = {steps}, tolerance 0.05", model, changed(own, tolerance=0.05)),
        Row(f"T = {steps}, min_score {min_score:g}", model, own, min_score),
        Row(f"T = 3, steps x 1, min_score {min_score:g}", model, three(1), min_score),
    ]
    if prior_std is not None:

        def with_prior(k: float, num_steps: int) -> GradientAscentRefiner:
            prior = dict(std=prior_std, scale=k**0.5)
            return GradientAscentRefiner(num_steps=num_steps, prior=prior)

        rows += [
            Row(f"prior, k = {k:g}, T = {steps}{name}", model, with_prior(k, steps), score)
            for k, steps, name, score in [
                *((k, steps, "", 0.0) for k in (0.125, 0.25) for steps in (1, 2, 3, 10)),
                (0.125, 1, f", min_score {min_score:g}", min_score),
            ]
        ]
    if projected is not None:
        rows += [
            Row(f"projected, T = {steps}", projected, own),
            Row("projected, T = 3, steps x 1", projected, three(1)),
            Row(f"projected, T = {steps}, min_score {min_score:g}", projected, own, min_score),
        ]
    if regressing is not None:
        rows += regression_rows(regressing, own, min_score)
    return rows


def regression_rows(model: EBMDetector, own: GradientAscentRefiner, min_score: float) -> list[Row]:
    """Rows of a head with a regression: its f alone, then first steps by regression."""
    steps = own.num_steps
    rows = [Row(f"head with a regression, T = {steps}", model, own)]
    for first, then, length, score in [
        *((1, then, 1.0, score) for score in (0.0, min_score) for then in (0, 1, 3, steps)),
        *((first, 0, length, min_score) for first, length in ((1, 0.5), (2, 1.0), (2, 0.5))),
    ]:
        refiner = changed(own, num_steps=then, regression_steps=first, regression_length=length)
        name = f"{first} x regression" + (f" of {length:g}" if length != 1 else "")
        name += f", T = {then}" + (f", min_score {score:g}" if score else "")
        rows.append(Row(name, model, refiner, score))
    return rows


def load(cfg: Config, checkpoint: str) -> EBMDetector:
    """The model of a config, with the projection and the regression that the checkpoint has."""
    state = read_checkpoint(checkpoint)["state_dict"]
    weight = state.get("energy_head.projections.0.weight")
    cfg = copy.deepcopy(cfg)
    regresses = "energy_head.regression.fc.weight" in state
    cfg.model.energy_head.regression = dict() if regresses else None  # its scale is a weight
    if weight is not None:
        cfg.model.energy_head.projection_channels = len(weight)
    return load_model(cfg, checkpoint)


def timed(run: Callable[..., Output], *arguments: object) -> tuple[Output, float]:
    """A result, and the processor time that it took in ms."""
    start = time.process_time()
    result = run(*arguments)
    return result, 1e3 * (time.process_time() - start)


@torch.inference_mode()
def measure(rows: list[Row], cfg: Config, images: int) -> tuple[list[float], list[dict], float]:
    """Median ms and the metrics of each row, and median ms of the detector."""
    model, loader = rows[0].model, val_loader(cfg)
    metrics = [build_metric(METRICS, cfg.val_evaluator, loader) for _ in rows]
    times, detector, seen = [[] for _ in rows], [], []
    for batch in itertools.islice(loader, images):
        data = model.data_preprocessor(copy.deepcopy(batch), False)
        inputs, samples = data["inputs"], data["data_samples"]
        with model.maps_of(inputs) as maps_of_inputs:
            found, took = timed(model.detector.predict, inputs, samples)
        detector.append(took)
        maps, more = timed(maps_of_inputs)
        for row, metric, spent in zip(rows, metrics, times):
            moved = copy.deepcopy(found)
            spent.append(more + timed(row.refine, maps, moved, inputs.shape[-2:])[1])
            metric.process(batch, [sample.to_dict() for sample in moved])
        seen += [sample.img_id for sample in samples]
    for metric in metrics:
        metric.img_ids = seen  # else the images that are left out count as missed
    values = [metric_values(metric, loader) for metric in metrics]
    return [float(np.median(each)) for each in times], values, float(np.median(detector))


def main() -> None:
    """Measure all rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--prior", type=float, nargs=4, metavar="STD", help="encoded (x, y, w, h)")
    parser.add_argument("--projected", metavar="CHECKPOINT")
    parser.add_argument("--regression", metavar="CHECKPOINT")
    parser.add_argument(
        "--rows", nargs="+", metavar="TEXT", help="the first two rows, and those with such a text"
    )
    parser.add_argument("--images", type=int, help="of the validation set; default: all")
    parser.add_argument("--min-score", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    projected = load(cfg, args.projected) if args.projected else None
    regressing = load(cfg, args.regression) if args.regression else None
    model = load(cfg, args.checkpoint)
    rows = make_rows(model, projected, args.min_score, args.prior, regressing)
    if args.rows:
        wanted = [row for row in rows[2:] if any(text in row.name for text in args.rows)]
        rows = [*rows[:2], *wanted]
    milliseconds, values, detector = measure(rows, cfg, args.images)
    before, after = (values[k][SHOWN["AP"]] for k in (0, 1))

    table = Table(title=f"detector alone: {detector:.1f} ms, {args.threads} thread(s)")
    names = ("", "evaluations", "ms", "x detector", *SHOWN, "share of the gain")
    for name in names:
        table.add_column(name, justify="right" if name else "left")
    for row, spent, found in zip(rows, milliseconds, values):
        share = (
            (found[SHOWN["AP"]] - before) / (after - before) if after != before else float("nan")
        )
        table.add_row(
            row.name,
            f"{row.evaluations}",
            f"{spent:.1f}",
            f"{spent / detector:.2f}",
            *(f"{100 * found[name]:.2f}" for name in SHOWN.values()),
            f"{100 * share:.0f} %",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
