"""From the config and checkpoint of a detector of mmdet3d to a refined detector, within a time."""

from __future__ import annotations

import os
from collections.abc import Callable

from ebm_mmdet.apis.fitting.run import MAX_ITERS, run_fit

from .frames import Frames

__all__ = ["fit_3d"]


def fit_3d(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike,
    out_dir: str | os.PathLike | None = None,
    minutes: float = 20.0,
    cache_gb: float = 4.0,
    device: str | None = None,
    seed: int = 0,
    max_iters: int = MAX_ITERS,
    say: Callable[[str], None] = print,
) -> dict:
    """Train an energy head on a 3D detector, tune its refiner, and judge whether it pays.

    Steps, files and results are those of :func:`ebm_mmdet.apis.fit`, with frames for images.

    Args:
        config: config file of the detector, or the name of a packaged one, ``mmdet3d::...``.
        checkpoint: its checkpoint.
        out_dir: a new folder, or that of an interrupted call; ``NAME_fit`` by default.
        minutes: time for everything from here on, reading of the data apart.
        cache_gb: memory for maps, in GB.
        device: ``'cpu'``, ``'cuda:0'``; by default a GPU if there is one.
        seed: seed of the split, the training and the bootstrap.
        max_iters: most iterations of the training.
        say: receives lines about what is done.

    Returns:
        See :func:`ebm_mmdet.apis.fit`.

    Raises:
        ValueError: a setting is out of range, or the data or the detector cannot be used.
        RuntimeError: the detector does not run on this machine.
        FileNotFoundError: there is no such config, checkpoint or annotation file.
        FileExistsError: ``out_dir`` has other content or a fit with other settings.
        CheckpointError: the checkpoint does not fit the detector.
    """
    return run_fit(
        Frames(),
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
