"""What a fit gains, in shares of what a hand-made recipe gains on the same detector and images.

    python tools/lab/benchmarks/fit_gain.py FIT_DIR RECIPE.py RECIPE.pth [--out FILE.json]

FIT_DIR is a folder of `python -m ebm_mmdet fit`; RECIPE.py is the config of an `EBMDetector`, and
RECIPE.pth its checkpoint. Both must hold the same detector, byte for byte. Boxes are clipped to the
image in all rows, the detector's too. Errors are those of a paired bootstrap over the images.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import DATASETS
from mmengine.config import DictAction
from mmengine.dataset import pseudo_collate
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # tools/, which contains lab

from ebm_mmdet.apis import load_detector
from ebm_mmdet.apis.fitting.detections import coco_records
from ebm_mmdet.apis.fitting.image_set import ImageSet
from ebm_mmdet.energy import evaluate_only
from ebm_mmdet.evaluation import MatchedDetections, bootstrap_weights
from ebm_mmdet.evaluation.average_precision import METRICS
from ebm_mmdet.files import markdown_table, read_json, write_json
from lab.studies.limits import detections_per_image

GOAL = 0.9


def measure_gains(
    fit_dir: Path,
    recipe: Path,
    checkpoint: Path,
    resamples: int = 1000,
    cfg_options: dict | None = None,
    say: Callable[[str], None] = print,
) -> dict:
    """Detector, recipe and fit on the validation images of the fit.

    Args:
        fit_dir: folder of a finished fit.
        recipe: config of an ``EBMDetector``.
        checkpoint: its checkpoint.
        resamples: of the bootstrap.
        cfg_options: changes of the recipe by dotted names, such as another refiner.
        say: receives a line per method.

    Returns:
        ``rows``: for each method its metrics in percent, with changes against the detector and
        their errors. ``beyond``: for AP and AP90, the gain of the fit minus nine tenths of the
        recipe's, with its error; the goal is met where it is not negative.

    Raises:
        ValueError: the two hold different detectors, or the fit is not finished.
    """
    result = read_json(fit_dir / "result.json")
    if result is None:
        raise ValueError(f"{fit_dir} has no result.json, so its fit is not finished")
    fitted = load_detector(result["config"], result["checkpoint"])
    recipes = load_detector(recipe, checkpoint, cfg_options=cfg_options)
    refuse_other_detector(fitted, recipes)
    loader = fitted.cfg.get("val_dataloader") or fitted.cfg.test_dataloader
    dataset = DATASETS.build(loader.dataset)
    images = ImageSet(dataset, range(len(dataset)))
    most = detections_per_image(fitted.cfg)
    rows, runs = [], []
    for name, model, refiner in (
        ("detector", fitted, evaluate_only),
        ("the hand-made recipe", recipes, recipes.refiner),
        ("fit", fitted, fitted.refiner),
    ):
        model.refiner, model.clip_boxes = refiner, "all"
        records, seconds = predict(model, images)
        classes = fitted.energy_head.num_classes
        runs.append(MatchedDetections(images.coco(range(len(images)), classes), records, most))
        rows.append(dict(method=name, ms_per_image=round(1e3 * seconds, 1)))
        say(f"{name}: {100 * runs[-1].metrics()[0]:.2f} AP")
    gains = bootstrap_gains(runs, bootstrap_weights(len(images), resamples))
    for row, run, gain in zip(rows, runs, [None, *gains]):
        for i, metric in enumerate(METRICS):
            row[metric] = round(100 * float(run.metrics()[i]), 2)
            if gain is not None:
                row[f"change_{metric}"] = round(float(gain[0, i]), 2)
                row[f"error_{metric}"] = round(float(gain[1:, i].std(ddof=1)), 2)
    beyond = {}
    for metric in ("AP", "AP90"):
        more = (gains[1] - GOAL * gains[0])[:, METRICS.index(metric)]
        beyond[metric] = [round(float(more[0]), 2), round(float(more[1:].std(ddof=1)), 2)]
    return dict(rows=rows, beyond=beyond, images=len(images), resamples=resamples)


def refuse_other_detector(one: nn.Module, other: nn.Module) -> None:
    """Raise ``ValueError`` unless the detectors inside have the same weights."""
    ours, theirs = one.detector.state_dict(), other.detector.state_dict()
    if set(ours) != set(theirs) or not all(torch.equal(ours[key], theirs[key]) for key in ours):
        raise ValueError(
            "the fit and the recipe hold different detectors; train the recipe with load_from set "
            "to the checkpoint that was fitted"
        )


@torch.no_grad()
def predict(model: nn.Module, images: ImageSet) -> tuple[list[dict], float]:
    """Results in COCO's format for all images, and the median of the seconds of one."""
    records, seconds = [], []
    for position in range(len(images)):
        data = pseudo_collate([images[position]])
        start = time.perf_counter()
        (sample,) = model.test_step(data)
        seconds.append(time.perf_counter() - start)
        found = sample.pred_instances
        records += coco_records(position, found, model.energy_head.num_classes)
    return records, float(np.median(seconds))


def bootstrap_gains(runs: Sequence[MatchedDetections], weights: np.ndarray) -> list[np.ndarray]:
    """Gains over the first run, (1 + B, 5) in percent: on all images, then on B resamples."""
    every = np.concatenate([np.ones((1, weights.shape[1])), weights])
    first, *others = [100 * np.array([run.metrics(w) for w in every]) for run in runs]
    return [each - first for each in others]


def table(report: dict) -> str:
    """The rows in Markdown."""
    lines = []
    for row in report["rows"]:
        cells = [row["method"]]
        for metric in METRICS:
            change, error = row.get(f"change_{metric}"), row.get(f"error_{metric}")
            against = "" if change is None else f" ({change:+.2f} ± {error:.2f})"
            cells.append(f"{row[metric]:.2f}{against}")
        lines.append([*cells, f"{row['ms_per_image']:.1f}"])
    return markdown_table(["", *METRICS[:-1], "mean IoU", "ms per image"], lines)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fit_dir", type=Path, metavar="FIT_DIR")
    parser.add_argument("recipe", type=Path, metavar="RECIPE.py")
    parser.add_argument("checkpoint", type=Path, metavar="RECIPE.pth")
    parser.add_argument("--resamples", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    args = parser.parse_args(argv)
    report = measure_gains(
        args.fit_dir, args.recipe, args.checkpoint, args.resamples, args.cfg_options
    )
    print(table(report))
    for metric, (value, error) in report["beyond"].items():
        print(f"{metric}: fit minus {GOAL:g} of the recipe's gain {value:+.2f} ± {error:.2f}")
    if args.out:
        write_json(args.out, report)


if __name__ == "__main__":
    main()
