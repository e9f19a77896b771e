"""When annotators disagree: detector, regression heads and energy head on two right boxes each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import DATASETS, TASK_UTILS
from mmengine.config import Config

from ebm_mmdet.apis.feature_cache import cache_test_images
from ebm_mmdet.apis.fitting.rivals import RegressionStep
from ebm_mmdet.apis.trained_detector import load_frozen_detector
from ebm_mmdet.box_iou import box_iou
from ebm_mmdet.datasets import CheckedCOCO, use_checked_annotations, write_coco
from ebm_mmdet.evaluation.average_precision import MatchedDetections
from ebm_mmdet.evaluation.bootstrap import bootstrap_weights, resample
from ebm_mmdet.files import markdown_table, write_csv, write_json
from ebm_mmdet.visualization import save_figure

from ..demo.train import train_stage
from ..pictures import draw_two_hills
from .convention_objects import SeenObject, likelihoods, mode_shares, seen_objects
from .heads import TrainedHeads, training_views
from .methods import ENERGY, L1, L2, Method, apply
from .study import StudySettings, claim_folder, make_row, metric_cell, statistic

__all__ = ["conventions_page", "run_conventions_study"]

VALIDATION_SEED, VALIDATION_IMAGES = 2, 80
KINDS = {"L1 head": L1, "L2 head": L2}
"""Of the regression heads, by the name of their row."""
SHOWN = ("AP", "AP50", "AP75", "AP90", "IoU_TP")
PICTURED, PICTURED_IOU, PICTURED_MASS = 3, 0.6, 0.05
LIKELIHOOD_IMAGES = 25
"""Likelihoods and masses need many more points of f than a climb does."""


def run_conventions_study(
    detector_cfg: Config,
    cfg: Config,
    out: Path,
    settings: StudySettings,
    say: Callable[[str], None] = print,
) -> dict:
    """Draw the data, train what is missing, evaluate, write the table and the picture.

    Everything is kept in ``out`` and used again by the next call.

    Args:
        detector_cfg: config of the detector, trained on a ``ShapesDataset`` with two conventions.
        cfg: config of an ``EBMDetector`` on it, with ``num_starts`` and ``num_modes``.
        out: folder of this study.
        settings: seeds of the heads, ``rounds``, ``boxes_per_iteration`` and ``resamples``.
        say: receives one line per step.

    Returns:
        The content of ``results.json``.

    Raises:
        FileExistsError: ``out`` has a study with other settings.
    """
    endless = detector_cfg.train_dataloader.dataset
    data = out / "data"
    if not (data / "annotations" / "val.json").exists():
        say("drawing the validation images")
        keys = ("image_size", "num_shapes", "extent", "conventions", "handle_length")
        options = {key: endless[key] for key in keys}
        write_coco(data, "val", VALIDATION_IMAGES, VALIDATION_SEED, **options)
    detector_cfg.work_dir = str(out / "detector")
    cfg.load_from = str(train_stage(detector_cfg, "detector", say))
    claim_folder(out, cfg, settings)
    cfg.val_dataloader.dataset.data_root = f"{data}/"
    use_checked_annotations()
    detector = load_frozen_detector(cfg)
    test_set = DATASETS.build(cfg.val_dataloader.dataset)
    truth = CheckedCOCO(test_set.ann_file)
    images = cache_test_images(detector, test_set)
    views = training_views(cfg, detector, settings.rounds, say)
    heads = TrainedHeads(cfg, detector, out / "heads", views, settings.boxes_per_iteration, say)
    for seed in settings.seeds:
        for kind in (ENERGY, *KINDS.values()):
            heads.get(kind, seed)

    weights = bootstrap_weights(len(truth.imgs), settings.resamples)
    rows, base = [], None
    for method in _methods(cfg):
        runs, times = [], []
        for seed in settings.seeds if method.head else settings.seeds[:1]:
            chosen = [heads.get(method.head, seed).head] if method.head else []
            records, seconds = apply(method, detector, images, chosen, test_set.cat_ids)
            runs.append(MatchedDetections(truth, records, conventions=True))
            times.append(seconds)
        measured = resample(statistic(runs), weights)
        base = base or measured
        rows.append(make_row(method, base, measured, runs, [], times))
        say("  ".join(f"{key} {value}" for key, value in rows[-1].items() if value is not None))

    refiner, objects = TASK_UTILS.build(cfg.model.refiner), []
    for seed in settings.seeds:
        energy = heads.get(ENERGY, seed).head
        rivals = {kind: heads.get(kind, seed).head for kind in KINDS.values()}
        some = images[:LIKELIHOOD_IMAGES]
        objects.append(seen_objects(some, truth, test_set.cat_ids, energy, rivals, refiner))
    save_figure(_picture(objects[0], test_set), out / "two_hills.png", dpi=110)
    report = dict(
        settings=asdict(settings),
        images=len(images),
        objects=len(truth.anns),
        seen=len(objects[0]),
        rows=rows,
        nll=[likelihoods(each) for each in objects],
        modes=[mode_shares(each) for each in objects],
        threads=torch.get_num_threads(),
    )
    write_json(out / "results.json", report)
    write_csv(out / "results.csv", rows)
    return report


def _methods(cfg: Config) -> list[Method]:
    settings = dict(cfg.model.refiner)
    several = TASK_UTILS.build({**settings, "num_modes": 0})  # as good, and faster
    one = TASK_UTILS.build({**settings, "num_starts": 1, "num_modes": 0})
    return [
        Method("detector", lambda head: None),
        *(
            Method(name, lambda head: RegressionStep(head, 1.0), kind)
            for name, kind in KINDS.items()
        ),
        Method("energy head, 1 start", lambda head: one, ENERGY),
        Method(f"energy head, {several.num_starts} starts", lambda head: several, ENERGY),
    ]


def _picture(objects: list[SeenObject], test_set):
    """Objects of different images with a mode of some mass close to each convention."""
    chosen: dict[int, SeenObject] = {}
    for each in objects:
        modes = each.modes[np.nan_to_num(each.mass) >= PICTURED_MASS]
        if (box_iou(each.conventions[:, None], modes) > PICTURED_IOU).any(1).all():
            chosen.setdefault(each.image, each)
    chosen = list(chosen.values())[:PICTURED] or objects[:PICTURED]
    pictures = []
    for each in chosen:
        data = test_set[each.image]
        pictures.append(np.ascontiguousarray(data["inputs"].numpy()[::-1].transpose(1, 2, 0)))
    return draw_two_hills(pictures, chosen)


def conventions_page(report: dict) -> str:
    """The table of :func:`run_conventions_study` in Markdown, with its description."""
    settings, nll = report["settings"], report["nll"]
    seeds = ", ".join(map(str, settings["seeds"]))
    of = {"detector": "detector", **KINDS, "energy head": "energy"}
    lines = []
    for row in report["rows"]:
        kind = of[row["method"].split(",")[0]]
        values = [each[kind] for each in nll]
        likelihood = f"{np.mean(values):.2f}"
        if kind != "detector" and len(values) > 1:
            likelihood += f" ± {np.std(values, ddof=1):.2f}"
        spread = "" if row["seed_std_AP75"] is None else f"{row['seed_std_AP75']:.1f}"
        cells = [metric_cell(row, metric) for metric in SHOWN[:4]]
        lines.append([row["method"], *cells, spread, f"{row['IoU_TP']:.1f}", likelihood])
    header = ["", *SHOWN[:4], "AP75, std of seeds", "IoU", "NLL, nats"]
    modes = {key: 100 * np.mean([m[key] for m in report["modes"]]) for key in report["modes"][0]}
    described = (
        f"{report['images']} generated images, {report['objects']} objects, head seeds {seeds}, "
        "one detector. AP against the better-matching convention, in percent; in brackets the "
        f"change against the detector ± its bootstrap error over images ({settings['resamples']} "
        "resamples). IoU: mean of true positives. NLL: of the annotated box, for the "
        f"{report['seen']} objects of the first {LIKELIHOOD_IMAGES} images that a detection "
        "matches; for detector and regression heads that of a "
        "Gaussian fitted to residuals of other images."
    )
    found = (
        f"Of these objects, at least one convention is among the modes (IoU 0.75) for "
        f"{modes['one']:.0f} %, and both are for {modes['both']:.0f} %. Where both are, they have "
        f"{modes['mass']:.0f} % of the mass, and the one with the handle has "
        f"{modes['with_handle']:.0f} % of that; 50 % of the annotations include it."
    )
    return f"{described}\n\n{markdown_table(header, lines)}\n\n{found}"
