"""One run of the study: train a config, predict in several ways, measure.

<out>/runs/<task>/<method>/seed<N>/
    settings.json     what determines the run; written first, and never changed
    epoch_*.pth       checkpoints
    console.log       output of mmengine
    result.json       measurements; written last
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner

from ebm_mmdet.files import read_json, write_json

from ..demo.evaluate import load_model
from ..demo.screen import quiet
from ..demo.train import train_stage
from ..studies.study import claim, hash_recipe
from .methods import run_config

__all__ = ["POINTS", "Run", "execute", "measure", "trained"]

POINTS = ("mean", "median", "mode")


@dataclasses.dataclass(frozen=True)
class Run:
    """A method on a task, with a seed."""

    task: str
    method: str
    seed: int
    changes: Mapping[str, object] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Path of the run's folder below ``runs``."""
        return f"{self.task}/{self.method}/seed{self.seed}"

    def folder(self, out: Path) -> Path:
        """Folder of the run's files."""
        return out / "runs" / self.name

    def config(self, out: Path) -> Config:
        """The config, with its work folder."""
        cfg = run_config(self.task, self.method, self.seed, self.changes)
        cfg.work_dir = str(self.folder(out))
        return cfg

    def claim(self, out: Path) -> None:
        """Store what determines the run, or check that the folder belongs to this run.

        Raises:
            FileExistsError: it belongs to a run with other settings.
        """
        claim(self.folder(out), {"recipe": hash_recipe(self.config(out)), "seed": self.seed})


def execute(run: Run, out: Path, say: Callable[[str], None] = print) -> dict:
    """Train and measure a run, or continue it, or return its earlier measurements.

    Returns:
        The content of ``result.json``: ``task``, ``method``, ``seed``, ``training_s`` (processor
        time of the training with the making of its images, which other jobs hardly change; None if
        it was interrupted), ``ms_per_step`` (wall time; None for a training of few steps),
        ``prediction_s``, ``parameters``, ``threads``, and ``values``, see :func:`measure`.

    Raises:
        FileExistsError: the folder has a run with other settings.
    """
    run.claim(out)
    folder = run.folder(out)
    finished = read_json(folder / "result.json")
    if finished is not None:
        return finished
    cfg = run.config(out)
    with quiet(folder / "console.log"):
        begun = any(folder.glob("epoch_*.pth"))
        start = time.process_time()
        checkpoint = train_stage(cfg, run.name, say)
        training = None if begun else time.process_time() - start
        model = load_model(cfg, str(checkpoint))
        start = time.perf_counter()
        values = measure(model, cfg)
        prediction = time.perf_counter() - start
    step = _seconds_per_step(folder)
    result = {
        "task": run.task,
        "method": run.method,
        "seed": run.seed,
        "training_s": training,
        "ms_per_step": step and 1e3 * step,
        "prediction_s": prediction,
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "values": values,
    }
    write_json(folder / "result.json", result)
    return result


def measure(model: torch.nn.Module, cfg: Config) -> dict[str, dict[str, float | None]]:
    """Evaluate a model on the test images, with every kind of point prediction.

    Args:
        model: a trained ``ImageRegressor`` or ``TeacherRegressor``, in eval mode.
        cfg: its config.

    Returns:
        ``mean``, ``median`` and ``mode``: the values of the config's metrics without their prefix,
        None where they are not finite; a model without a density has ``mean`` only. ``more``: the
        likelihood with four times as many samples, if the model samples.
    """
    loader = Runner.build_dataloader(cfg.test_dataloader, seed=0)
    regressor = getattr(model, "student", model)
    settings, found = regressor.settings, {}

    def evaluate() -> dict[str, float | None]:
        evaluator = Evaluator([METRICS.build(metric) for metric in cfg.test_evaluator])
        evaluator.dataset_meta = loader.dataset.metainfo
        for batch in loader:
            with torch.no_grad():
                evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
        values = evaluator.evaluate(len(loader.dataset))
        return {k.rpartition("/")[2]: v if _finite(v) else None for k, v in values.items()}

    try:
        for point in POINTS:
            regressor.settings = dataclasses.replace(settings, point=point)
            found[point] = evaluate()
            if "nll" not in found[point]:
                return found  # it predicts a number: there is nothing to choose
        if "ess" in found["mean"]:
            regressor.settings = dataclasses.replace(settings, num_samples=4 * settings.num_samples)
            values = evaluate()
            found["more"] = {key: values[key] for key in ("nll", "ess")}
    finally:
        regressor.settings = settings
    return found


def trained(run: Run, out: Path) -> tuple[torch.nn.Module, Config]:
    """The model of a finished run, and its config."""
    cfg = run.config(out)
    checkpoint = Path(cfg.work_dir, f"epoch_{cfg.train_cfg.max_epochs}.pth")
    return load_model(cfg, str(checkpoint)), cfg


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _seconds_per_step(folder: Path) -> float | None:
    """Median of the logged wall times of a training step, loading included, over all restarts.

    None if the epochs are too short for a line in the log.
    """
    lines = [line for log in folder.glob("*/vis_data/scalars.json") for line in log.open()]
    times = [values["time"] for values in map(json.loads, lines) if "loss" in values]
    return float(np.median(times)) if times else None
