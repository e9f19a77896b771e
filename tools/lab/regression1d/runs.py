"""One run of the study: an ensemble trained by one method on one data set, in its own folder.

<out>/runs/<dataset>/<method>[_M<samples>]/
    run.json          description of the run; written first, and never changed
    checkpoint.pth    networks, optimiser and curves, every few epochs
    result.json       measurements; written last
"""

from __future__ import annotations

import json
import math
import os
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ebm_mmdet.files import differing_keys, read_json, write_json

from .data import Dataset, load_dataset
from .evaluation import evaluation_grid, kl_to_truth, negative_log_likelihood, proposal_ess
from .fused import kernel_is_available
from .methods import Trainee, build_trainee
from .seeds import generator
from .training import Settings, load_checkpoint, train

__all__ = ["Run", "StudyError", "execute", "load_model"]

CURVE_X = 32
"""Inputs x at which the training curves measure D_KL."""
EVALUATION_X = {"1": 2048, "2": 2048, "umal": 256}
"""Inputs x at which a finished run is measured."""


class StudyError(Exception):
    """An error that the user can fix; the message tells how."""


@dataclass(frozen=True)
class Run:
    """A method, by name and description, on a data set."""

    method: str
    dataset: str
    config: dict
    settings: Settings

    @property
    def num_samples(self) -> int:
        """M, 0 for a method without samples."""
        return self.config["num_samples"]

    @property
    def name(self) -> str:
        """Path of the run's folder below ``runs``."""
        suffix = f"_M{self.num_samples}" if self.num_samples else ""
        return f"{self.dataset}/{self.method}{suffix}"

    @property
    def cost(self) -> float:
        """Rough duration in an arbitrary unit, used to start with the longest runs."""
        objective = self.config.get("objective", {})
        passes = 1 + objective.get("num_steps", 0) + 3 * ("sigma" in objective)
        return self.settings.epochs * self.settings.models * (self.num_samples + 50) * passes

    def folder(self, out: Path) -> Path:
        """Folder of the run's files."""
        return out / "runs" / self.name

    def description(self) -> dict:
        """Everything that determines the run, including the data."""
        return {
            "method": self.method,
            "dataset": self.dataset,
            "checksum": load_dataset(self.dataset).checksum(),
            "settings": self.settings.as_dict(),
            "config": self.config,
        }


def execute(
    run: Run,
    out: Path,
    on_epoch: Callable[[int], None] = lambda epoch: None,
    stop: threading.Event | None = None,
) -> dict:
    """Train and measure, or continue, or return earlier measurements.

    Returns:
        The content of ``result.json``: the description of the run, ``kl`` and ``nll`` (one number
        per model, None for a failed one), ``ess`` (the same, only if a proposal was learned:
        its effective sample size at the test inputs, divided by M), ``kl_curve`` (epochs, models)
        on a coarse grid, ``loss_curve`` (epochs, models), ``ms_per_step`` (median over epochs) and
        ``machine``.

    Raises:
        StudyError: the folder has another run of this name.
        Interrupted: ``stop`` was set.
    """
    folder = claim(run, out)
    finished = read_json(folder / "result.json")
    if finished is not None:
        on_epoch(run.settings.epochs)
        return finished
    dataset = load_dataset(run.dataset)
    trainee = _trainee(run)
    history = train(
        trainee,
        dataset,
        run.settings,
        folder / "checkpoint.pth",
        evaluation_grid(dataset, CURVE_X),
        on_epoch=on_epoch,
        stop=stop,
    )
    grid = evaluation_grid(dataset, EVALUATION_X[run.dataset])
    steps = math.ceil(len(dataset.x) / run.settings.batch_size)
    result = {
        **run.description(),
        "kl": _numbers(kl_to_truth(trainee.density, grid)),
        "nll": _numbers(negative_log_likelihood(trainee.density, dataset)),
        **_effective_samples(trainee, dataset, run.settings.seed),
        "ms_per_step": float(1e3 * history["seconds"].median() / steps),
        "machine": _machine(),
        "kl_curve": [_numbers(row) for row in history["kl"]],
        "loss_curve": [_numbers(row) for row in history["loss"]],
    }
    write_json(folder / "result.json", result)
    return result


def claim(run: Run, out: Path) -> Path:
    """Make the folder of a run, or check that it belongs to the same run.

    Raises:
        StudyError: it belongs to another run.
    """
    folder = run.folder(out)
    description, found = run.description(), read_json(folder / "run.json")
    if found is None:
        write_json(folder / "run.json", description)
        return folder
    changed = differing_keys(found, json.loads(json.dumps(description)))
    if changed:
        raise StudyError(
            f"{folder} holds a run with other {', '.join(changed)}: "
            f"{ {key: found.get(key) for key in changed} } instead of "
            f"{ {key: description.get(key) for key in changed} }. Give another --out, or remove it."
        )
    return folder


def load_model(run: Run, out: Path) -> Trainee:
    """The trained networks of a finished run."""
    trainee = _trainee(run)
    load_checkpoint(run.folder(out) / "checkpoint.pth", trainee)
    return trainee


def _trainee(run: Run) -> Trainee:
    dataset, settings = load_dataset(run.dataset), run.settings
    return build_trainee(run.config, dataset, range(settings.models), settings.seed)


def _effective_samples(trainee: Trainee, dataset: Dataset, seed: int) -> dict:
    if trainee.energy is None or trainee.mixture is None:
        return {}
    noise = generator(seed, "effective samples")
    return {"ess": _numbers(proposal_ess(trainee.energy, trainee.proposal, dataset.test_x, noise))}


def _numbers(values: Tensor) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values.tolist()]


def _machine() -> dict:
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "torch": torch.__version__,
        "fused_kernel": kernel_is_available(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
