"""From a detector's config and checkpoint to a refined detector, within a time."""

from __future__ import annotations

import copy
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from torch import nn

from ...engine import usable_device
from ...files import read_json, write_json
from ..trained_detector import load_weights
from .classes import check_classes, classes_of_checkpoint
from .clock import Clock
from .data import FitData, split_data
from .folder import check_folder, claim_folder, describe_inputs, held
from .images import Images
from .kind import Kind
from .page import table
from .progress import Progress
from .residuals import measure_residuals
from .steps import Steps, planned_seconds

__all__ = ["fit", "run_fit"]

MAX_ITERS = 10000
"""Iterations after which more time would change little."""
MAY_CHANGE = ("minutes",)
"""Settings of a fit that is not complete."""
RESIDUALS_SHARE = 0.05
"""Of the time, at most, for measuring how far the detector's boxes lie from the objects."""


def fit(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike,
    out_dir: str | os.PathLike | None = None,
    minutes: float = 20.0,
    cache_gb: float = 4.0,
    device: str | None = None,
    seed: int = 0,
    max_iters: int = MAX_ITERS,
    say: Callable[[str], None] = print,
    enlarge: int = 1,
) -> dict:
    """Train an energy head on a detector, tune its refiner, and judge whether it pays.

    The folder gets ``NAME_ebm.py`` and ``NAME_ebm.pth`` (config and checkpoint of detector and
    head, which mmdet's tools load), ``page.md`` with a table, and pictures. Every step keeps its
    result there: the same call goes on where an interrupted one was.

    Args:
        config: config file of the detector, or the name of a packaged one, ``mmdet::...``.
        checkpoint: its checkpoint.
        out_dir: a new folder, or that of an interrupted call; ``NAME_fit`` by default.
        minutes: time for everything from here on, reading of the data apart. A call that goes on
            may have another, of which the earlier calls have used a part.
        cache_gb: memory for features, in GB.
        device: ``'cpu'``, ``'cuda:0'``; by default a GPU if there is one.
        seed: seed of the split, the training and the bootstrap.
        max_iters: most iterations of the training.
        say: receives lines about what is done.
        enlarge: factor by which images are enlarged for the head (``EBMDetector``).

    Returns:
        ``pays``, ``sentence``, ``reasons``, ``rows``, ``tuned``, ``plan``, ``config``,
        ``checkpoint``, ``iterations``.

    Raises:
        ValueError: a setting is out of range, the data or the detector cannot be used, or their
            classes do not fit.
        FileNotFoundError: there is no such config, checkpoint or annotation file.
        FileExistsError: ``out_dir`` has other content, a fit with other settings, or a complete
            one with other ``minutes``.
        CheckpointError: the checkpoint does not fit the detector.
    """
    return run_fit(
        Images(enlarge),
        config,
        checkpoint,
        out_dir,
        minutes,
        cache_gb,
        device,
        seed,
        max_iters,
        say,
    )


def run_fit(
    kind: Kind,
    config: str | os.PathLike,
    checkpoint: str | os.PathLike,
    out_dir: str | os.PathLike | None,
    minutes: float,
    cache_gb: float,
    device: str | None,
    seed: int,
    max_iters: int,
    say: Callable[[str], None],
) -> dict:
    """:func:`fit` for a kind of boxes; the other arguments are its own."""
    for name, value in dict(minutes=minutes, cache_gb=cache_gb, max_iters=max_iters).items():
        if not 0 <= value < math.inf or (value == 0 and name != "cache_gb"):
            raise ValueError(f"{name}={value}; give a positive number")
    on = usable_device(device)
    config, checkpoint = os.fspath(config), Path(checkpoint)
    stem = Path(config.rpartition("::")[2]).stem
    folder = Path(out_dir) if out_dir is not None else Path(f"{stem}_fit")
    plain = get_config(config) if "::" in config else Config.fromfile(config)
    kind.refuse(plain)
    settings = dict(minutes=minutes, cache_gb=cache_gb, seed=seed, max_iters=max_iters)
    settings |= kind.settings
    wanted = describe_inputs(plain, checkpoint, settings)
    check_folder(folder, wanted, free=MAY_CHANGE)
    done = _finished(folder, minutes, kind, say)
    if done is not None:
        return done
    kind.begin(plain)
    cfg = kind.add_energy_head(plain, checkpoint, max_iters)
    # Both may fail, and the data may take minutes to read.
    model, loaded = _load(cfg, checkpoint, on)
    classes = classes_of_checkpoint(loaded)
    for line in check_classes(cfg, cfg.model.energy_head.num_classes, classes, checkpoint):
        say(line)
    data = split_data(cfg, seed, kind, classes)
    about_data, before = kind.about_data(data), cfg.model
    cfg = kind.add_energy_head(plain, checkpoint, max_iters, **about_data)
    with tempfile.TemporaryDirectory() as scratch:
        # Raises now what would be raised at the end: some configs cannot be inherited from.
        written = Path(scratch) / "config.py"
        kind.write_config(config, checkpoint, written, max_iters, **about_data)
        Config.fromfile(written)
    if cfg.model != before:
        model, _ = _load(cfg, checkpoint, on)
    resumed = claim_folder(folder, wanted, free=MAY_CHANGE)
    with held(folder):
        clock = Clock(folder / "clock.json", 60 * minutes)
        _keep_digest(folder, data)
        say(f"going on in {folder}" if resumed else f"working in {folder}")
        for note in data.notes:
            say(note)
        try:
            residuals = measure_residuals(
                kind,
                model,
                data,
                folder / "residuals.json",
                RESIDUALS_SHARE * 60 * minutes,
                clock,
                seed,
                Progress("measuring the detector", say, clock),
            )
            about_data["residuals"] = residuals
            cfg = kind.add_energy_head(plain, checkpoint, max_iters, **about_data)
            sigmas = cfg.model.energy_head.objective.noise.sigmas
            matched = f"{len(residuals)} boxes of the detector match an object"
            say(f"{matched}; noise of the training {sigmas}")
            steps = Steps(kind, cfg, data, model, folder, clock, seed, max_iters, about_data, say)
            return steps.run(config, checkpoint, stem, cache_gb)
        finally:
            clock.save()  # what a step has used counts, whether or not its result is there


def _keep_digest(folder: Path, data: FitData) -> None:
    """Note which data the results in the folder are of, or check that it is this.

    Raises:
        FileExistsError: an image has come or gone, or a box has changed, since the fit began.
    """
    path = folder / "data.json"
    stored = read_json(path)
    if stored is None:
        write_json(path, dict(annotations=data.digest))
    elif stored["annotations"] != data.digest:
        raise FileExistsError(
            f"{folder} has a fit on other images or annotations than there are now, and its parts "
            "would not fit together; give a new --out-dir, or remove this one"
        )


def _finished(folder: Path, minutes: float, kind: Kind, say: Callable[[str], None]) -> dict | None:
    """The result of a fit that is complete; None if there is none.

    Raises:
        FileExistsError: it had other minutes.
    """
    result = read_json(folder / "result.json")
    if result is None:
        return None
    planned = planned_seconds(folder)
    if planned not in (None, 60 * minutes):
        raise FileExistsError(
            f"{folder} has a complete fit with another minutes, {planned / 60:g}, to which no time "
            "can be added; give a new --out-dir"
        )
    rows = table(result["rows"], kind)
    say(f"{folder} is complete already.\n\n{rows}\n\n{result['sentence']}")
    return result


def _load(cfg: Config, checkpoint: Path, device: torch.device) -> tuple[nn.Module, dict]:
    """The wrapper with the detector's weights, and the checkpoint.

    Raises:
        CheckpointError: the checkpoint lacks weights of the detector, or has others.
    """
    model = MODELS.build(copy.deepcopy(cfg.model))
    loaded = load_weights(model.detector, checkpoint, "the detector of the config")
    return model.to(device).eval(), loaded
