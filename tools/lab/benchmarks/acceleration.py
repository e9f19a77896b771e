r"""Refinement beside the detector: time, evaluations of f, and the share of the gain that is kept.

    make demo
    python tools/lab/benchmarks/acceleration.py configs/demo/shapes_ebm.py \
        work_dirs/demo/seed0/energy_head/iter_600.pth [--projected CHECKPOINT] [--images 150]

All rows refine the same detections, one after another on each image, so that other work on the
machine affects them equally. Times are medians of processor time: of the detector alone, and of
everything that refinement adds (maps prepared, boxes moved, fields written). The gain is that of
the config's own refiner over the detections, in AP of all images. Rows of a projected head refer to
that gain too; its checkpoint comes from the same config with
`--cfg-options model.energy_head.projection_channels=...`.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from lab.demo.evaluate import build_metric, changed, load_model, metric_values, val_loader
from lab.demo.screen import quiet
from mmdet.registry import METRICS
from mmengine.config import Config, DictAction
from rich.console import Console
from rich.table import Table

from ebm_mmdet.energy import Refiner, evaluate_only
from ebm_mmdet.engine import read_checkpoint
from ebm_mmdet.models import EBMDetector

SHOWN = {"AP": "bbox_mAP", "AP75": "bbox_mAP_75", "AP90": "bbox_mAP_90"}


class Row(NamedTuple):
    """A way of refining."""

    name: str
    model: EBMDetector
    refiner: Refiner
    min_score: float = 0.0

    @property
    def evaluations(self) -> int:
        """Of f and its gradient, with the last of f alone."""
        if self.refiner is evaluate_only:
            return 1
        leaps = self.refiner.acceleration == "leap"
        return 1 + (self.refiner.num_leaps if leaps else self.refiner.num_steps)


def make_rows(model: EBMDetector, projected: EBMDetector | None, min_score: float) -> list[Row]:
    """The rows of the table, the first without refinement and the second as configured."""
    own = model.refiner
    steps, size = own.num_steps, own.step_size
    # As long a way as the configured one, in three steps.
    longer = torch.as_tensor(size) * steps / 3
    leaps = changed(own, acceleration="leap", num_leaps=3)
    rows = [
        Row("not refined", model, evaluate_only),
        Row(f"T = {steps}", model, own),
        Row("T = 3", model, changed(own, num_steps=3)),
        Row("T = 3, longer steps", model, changed(own, num_steps=3, step_size=longer)),
        Row("2 leaps", model, changed(leaps, num_leaps=2)),
        Row("3 leaps", model, leaps),
        Row("4 leaps", model, changed(leaps, num_leaps=4)),
        Row("T = 3, Barzilai-Borwein", model, changed(own, num_steps=3, acceleration="bb")),
        Row(f"T = {steps}, tolerance 0.05", model, changed(own, tolerance=0.05)),
        Row(f"T = {steps}, min_score {min_score:g}", model, own, min_score),
        Row(f"3 leaps, min_score {min_score:g}", model, leaps, min_score),
    ]
    if projected is not None:
        rows += [
            Row(f"projected, T = {steps}", projected, own),
            Row("projected, 3 leaps", projected, leaps),
            Row(f"projected, 3 leaps, min_score {min_score:g}", projected, leaps, min_score),
        ]
    return rows


def load(cfg: Config, checkpoint: str) -> EBMDetector:
    """The model of a config, with the projection that the checkpoint has."""
    weight = read_checkpoint(checkpoint)["state_dict"].get("energy_head.projections.0.weight")
    cfg = copy.deepcopy(cfg)
    if weight is not None:
        cfg.model.energy_head.projection_channels = len(weight)
    return load_model(cfg, checkpoint)


def timed(run: Callable[[], object]) -> tuple[object, float]:
    """A result, and the processor time that it took in ms."""
    start = time.process_time()
    result = run()
    return result, 1e3 * (time.process_time() - start)


@torch.inference_mode()
def measure(rows: list[Row], cfg: Config, images: int) -> tuple[list[float], list[dict], float]:
    """Median ms and the metrics of each row, and median ms of the detector."""
    model, loader = rows[0].model, val_loader(cfg)
    metrics = [build_metric(METRICS, cfg.val_evaluator, loader) for _ in rows]
    times, detector = [[] for _ in rows], []
    for batch in itertools.islice(loader, images):
        data = model.data_preprocessor(copy.deepcopy(batch), False)
        inputs, samples = data["inputs"], data["data_samples"]
        with model.capture_features() as features:
            found, took = timed(lambda: model.detector.predict(inputs, samples, rescale=True))
        detector.append(took)
        maps = features()
        for row, metric, spent in zip(rows, metrics, times):
            moved = copy.deepcopy(found)
            row.model.min_score = row.min_score

            def refine(row=row, moved=moved, maps=maps, size=inputs.shape[-2:]) -> None:
                feats = row.model.energy_head.prepare(maps, input_shape=size)
                row.model.move(feats, moved, True, row.refiner)

            spent.append(timed(refine)[1])
            metric.process(batch, [sample.to_dict() for sample in moved])
    values = [metric_values(metric, loader) for metric in metrics]
    return [float(np.median(each)) for each in times], values, float(np.median(detector))


def main() -> None:
    """Measure all rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--projected", metavar="CHECKPOINT")
    parser.add_argument("--images", type=int, help="of the validation set; default: all")
    parser.add_argument("--min-score", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    projected = load(cfg, args.projected) if args.projected else None
    rows = make_rows(load(cfg, args.checkpoint), projected, args.min_score)
    milliseconds, values, detector = measure(rows, cfg, args.images)
    before, after = (values[k][SHOWN["AP"]] for k in (0, 1))

    table = Table(title=f"detector alone: {detector:.1f} ms, {args.threads} thread(s)")
    names = ("", "evaluations", "ms", "x detector", *SHOWN, "share of the gain")
    for name in names:
        table.add_column(name, justify="right" if name else "left")
    for row, spent, found in zip(rows, milliseconds, values):
        share = (found[SHOWN["AP"]] - before) / (after - before) if after != before else float("nan")
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
