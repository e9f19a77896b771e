"""Several detectors, and several ways to test one of them, in one table."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import nn

from ebm_mmdet.apis.timing import median_milliseconds
from ebm_mmdet.apis.trained_detector import load_detector, load_frozen_detector
from ebm_mmdet.datasets import CheckedCOCO, use_checked_annotations
from ebm_mmdet.engine import read_checkpoint
from ebm_mmdet.evaluation.average_precision import MatchedDetections
from ebm_mmdet.evaluation.bootstrap import bootstrap_weights, resample
from ebm_mmdet.files import read_json, write_json

from ..demo.train import train_stage
from ..processes import in_processes
from .auxiliary import annotations_of, auxiliary_metrics, mean_and_spread
from .heads import TrainedHeads, training_views
from .judged_detections import detect_and_judge
from .limits import detections_per_image, limit_warnings
from .methods import ENERGY, Method
from .report import make_row, statistic, write_report
from .study import StudySettings, claim, hash_recipe
from .study_file import Row, folder_name

__all__ = ["UNCERTAINTY", "compare_detectors"]

UNCERTAINTY = ("nll", "nll_px", "ece")
TIMED_IMAGES = 20


def compare_detectors(
    cfgs: Mapping[str, Config],
    rows: Sequence[Row],
    out: Path,
    settings: StudySettings,
    say: Callable[[str], None] = print,
    jobs: int = 1,
) -> dict:
    """Train what is missing, test every row, write ``results.json`` and ``results.csv``.

    Every detector is trained once per seed, by the schedule of its config. An energy head is
    trained on cached features of the detector of the same seed. Checkpoints, heads and detections
    are kept in ``out`` and used again by the next call; an interrupted training continues from its
    last checkpoint.

    Args:
        cfgs: the configs of all rows, and of the rows in ``trained_as``, by the name of the row;
            they must have the same validation images.
        rows: the table; changes are relative to the first row.
        out: folder of this study; what libraries print goes to ``console.log`` there.
        settings: see :class:`.StudySettings`; ``prior_k`` and ``rivals`` are not used.
        say: receives one line per step.
        jobs: trainings at a time, each in a process of its own with one thread. With 1, all run
            in this process, with its threads.

    Returns:
        The content of ``results.json``. Each row has the metrics,
        ``params``, ``ms_per_image`` (the whole detector, with all rows in turns on each image),
        ``training_s`` (detector and head),
        means of ``UNCERTAINTY`` over seeds if detections have a covariance, and ``auxiliary``: mean
        and standard deviation over seeds of the metrics of auxiliary tasks that the row's config
        evaluates.

    Raises:
        ValueError: a schedule is not by iterations, an ``EBMDetector`` row has no ``trained_as``,
            or the validation images differ.
        FileExistsError: ``out`` has results of other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / "console.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        study = _Study(cfgs, rows, out, settings, say)
        if jobs > 1:
            parts = [(cfgs, part, out, settings, seed) for part, seed in study.missing()]
            for _ in in_processes(_train_and_test, parts, jobs):
                pass
        return study.run()


def _train_and_test(
    cfgs: Mapping[str, Config], rows: Sequence[Row], out: Path, settings: StudySettings, seed: int
) -> None:
    """Make the detections of some rows with one seed, in a process of its own."""
    screen = sys.stdout

    def say(line: str) -> None:
        print(line, file=screen, flush=True)

    with (out / "console.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        study = _Study(cfgs, rows, out, settings, say)
        for row in rows:
            study.test(row, seed)


class _Study:
    """One call of :func:`compare_detectors`."""

    def __init__(
        self,
        cfgs: Mapping[str, Config],
        rows: Sequence[Row],
        out: Path,
        settings: StudySettings,
        say: Callable[[str], None],
    ) -> None:
        self.cfgs, self.rows, self.out, self.settings, self.say = cfgs, rows, out, settings, say
        images = cfgs[rows[0].name].val_dataloader.dataset
        for row in rows:
            self._check(row, images)
        use_checked_annotations()
        self.test_set = DATASETS.build(images)
        self.ann_file = annotations_of(self.test_set, out)
        self.truth = CheckedCOCO(self.ann_file)
        self.most = detections_per_image(cfgs[rows[0].name])
        self.cat_ids = self.truth.get_cat_ids(cat_names=self.test_set.metainfo["classes"])
        models = [(f"{row.name}: ", "model", cfgs[row.name].model) for row in rows]
        for warning in limit_warnings(models, self.truth, self.cat_ids, self.most):
            say(warning)

    def missing(self) -> list[tuple[list[Row], int]]:
        """What has to be trained or tested: rows of the same detector, and a seed."""
        parts: dict[tuple[int, str], list[Row]] = {}
        for seed in self.settings.seeds:
            for row in self.rows:
                if not self._tested(row, seed).exists():
                    parts.setdefault((seed, row.detector), []).append(row)
        return [(part, seed) for (seed, _), part in parts.items()]

    def run(self) -> dict:
        """See :func:`compare_detectors`."""
        seeds = self.settings.seeds
        # Before the first row, so that an interrupted study keeps all training.
        for row in self.rows:
            for seed in seeds:
                self._trained(row, seed)
        tested = {row: [self.test(row, seed) for seed in seeds] for row in self.rows}
        weights = bootstrap_weights(len(self.truth.imgs), self.settings.resamples)
        milliseconds = self._times()
        base, lines = None, []
        for row in self.rows:
            runs = [
                MatchedDetections(self.truth, run["detections"], self.most) for run in tested[row]
            ]
            measured = resample(statistic(runs), weights)
            base = base or measured
            training = [run["training_s"] for run in tested[row]]
            method = Method(row.name, lambda head: None)
            seconds = [milliseconds[row.name] / 1e3]
            line = make_row(method, base, measured, runs, training, seconds)
            line["params"] = tested[row][0]["params"]
            for key in UNCERTAINTY:
                values = [run["uncertainty"].get(key, np.nan) for run in tested[row]]
                values = [value for value in values if np.isfinite(value)]
                line[key] = round(float(np.mean(values)), 4) if values else None
            line["auxiliary"] = mean_and_spread([run.get("auxiliary", {}) for run in tested[row]])
            lines.append(line)
            shown = {key: value for key, value in line.items() if value not in (None, {})}
            self.say("  ".join(f"{key} {value}" for key, value in shown.items()))
        images = len(self.truth.imgs)
        return write_report(
            self.out, self.settings, lines, _flat, images=images, max_dets=self.most
        )

    def _folder(self, name: str) -> Path:
        return self.out / folder_name(name)

    def _check(self, row: Row, images: Mapping) -> None:
        """Raise an error for rows that cannot be compared, before anything is trained."""
        cfg, trained = self.cfgs[row.name], self.cfgs[row.detector]
        if cfg.val_dataloader.dataset != images:
            raise ValueError(f"row {row.name!r} has other validation images than the first row")
        if "max_iters" not in trained.train_cfg:
            raise ValueError(
                f"row {row.name!r}: train_cfg={dict(trained.train_cfg)}; expected a schedule by "
                "iterations, dict(type='IterBasedTrainLoop', max_iters=...)"
            )
        if trained.model.type == "EBMDetector":
            raise ValueError(
                f"row {row.name!r} is an EBMDetector; name in trained_as the row of its detector"
            )
        claim(self._folder(row.detector), dict(config=hash_recipe(trained)))
        if row.trained_as:
            wanted = dict(config=hash_recipe(cfg), trained_as=row.trained_as)
            if _has_head(cfg):
                wanted["rounds"] = self.settings.rounds
                wanted["boxes_per_iteration"] = self.settings.boxes_per_iteration
            claim(self._folder(row.name), wanted)

    def _trained(self, row: Row, seed: int) -> tuple[nn.Module, float]:
        """The model of a row in eval mode, trained now or before, and its training time (s)."""
        checkpoint = self._checkpoint(row.detector, seed)
        seconds, cfg = _training_seconds(checkpoint), copy.deepcopy(self.cfgs[row.name])
        if not _has_head(cfg):
            return load_detector(cfg, checkpoint), seconds
        cfg.load_from = str(checkpoint)
        model, settings = load_frozen_detector(cfg), self.settings
        views = training_views(cfg, model, settings.rounds, self.say)
        folder, boxes = self._folder(row.name) / "heads", settings.boxes_per_iteration
        trained = TrainedHeads(cfg, model, folder, views, boxes, self.say).get(ENERGY, seed)
        model.energy_head = trained.head
        return model.eval(), seconds + trained.seconds

    def _checkpoint(self, name: str, seed: int) -> Path:
        """The last checkpoint of a detector, which is trained first if necessary."""
        cfg, folder = copy.deepcopy(self.cfgs[name]), self._folder(name) / f"seed{seed}"
        path = folder / f"iter_{cfg.train_cfg.max_iters}.pth"
        if not path.is_file():
            # mmengine keeps loggers and visualizers by name, for the whole process.
            unique = str(folder.resolve()).replace("/", "_")
            cfg.work_dir, cfg.experiment_name, cfg.randomness = str(folder), unique, dict(seed=seed)
            cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
            if cfg.get("visualizer"):
                cfg.visualizer.name = unique
            train_stage(cfg, f"{name}, seed {seed}", self.say)
        return path

    def _tested(self, row: Row, seed: int) -> Path:
        return self._folder(row.name) / f"test{seed}.json"

    def test(self, row: Row, seed: int) -> dict:
        """Detections of a trained model on the validation images, from the folder if they exist."""
        path = self._tested(row, seed)
        if path.exists():
            return read_json(path)
        self.say(f"testing {row.name}, seed {seed}")
        model, training_s = self._trained(row, seed)
        metrics = auxiliary_metrics(self.cfgs[row.name])
        result = detect_and_judge(model, self.test_set, self.ann_file, self.cat_ids, metrics)
        result["training_s"] = training_s
        write_json(path, result)
        return result

    def _times(self) -> dict[str, float]:
        """Median milliseconds per image of each row, without loading.

        The rows run in turns on every image, so that other load on the machine affects all equally.
        """
        path, wanted = self.out / "times.json", {row.name for row in self.rows}
        stored = read_json(path)
        if stored and wanted <= set(stored):
            return stored
        self.say("timing")
        models = {row.name: self._trained(row, self.settings.seeds[0])[0] for row in self.rows}
        count = min(TIMED_IMAGES, len(self.test_set))
        batches = (pseudo_collate([self.test_set[index]]) for index in range(count))
        with torch.inference_mode():
            times = median_milliseconds([model.test_step for model in models.values()], batches)
        result = {name: round(value, 1) for name, value in zip(models, times)}
        write_json(path, result)
        return result


def _flat(lines: Sequence[dict]) -> list[dict]:
    """Rows with the mean of each auxiliary value as an entry of its own."""
    names = dict.fromkeys(name for line in lines for name in line["auxiliary"])
    rows = []
    for line in lines:
        means = {name: line["auxiliary"].get(name, (None,))[0] for name in names}
        rows.append({key: value for key, value in line.items() if key != "auxiliary"} | means)
    return rows


def _has_head(cfg: Config) -> bool:
    return cfg.model.type == "EBMDetector"


def _training_seconds(checkpoint: Path) -> float:
    """Sum of the times of all iterations, including those before an interruption."""
    state = read_checkpoint(checkpoint, mmap=True)
    steps, _ = state["message_hub"]["log_scalars"]["train/time"].data
    return round(float(np.sum(steps)), 1)
