"""Training of an ensemble: batches, optimiser, checkpoints."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ebm_mmdet.files import open_atomic

from .data import Dataset
from .evaluation import Grid, kl_to_truth
from .methods import Trainee
from .seeds import generator

__all__ = ["Interrupted", "Settings", "load_checkpoint", "save_checkpoint", "train"]


class Interrupted(Exception):
    """The run was stopped; everything after its last checkpoint will be repeated."""


@dataclass(frozen=True)
class Settings:
    """Settings of the training; the defaults are those of the paper."""

    epochs: int = 75
    batch_size: int = 32
    learning_rate: float = 1e-3
    models: int = 20
    seed: int = 0

    def as_dict(self) -> dict:
        """The settings as a plain dictionary."""
        return asdict(self)


def train(
    trainee: Trainee,
    dataset: Dataset,
    settings: Settings,
    checkpoint: Path | None = None,
    curve_grid: Grid | None = None,
    models: Sequence[int] | None = None,
    on_epoch: Callable[[int], None] = lambda epoch: None,
    stop: threading.Event | None = None,
    save_every: int = 5,
) -> dict[str, Tensor]:
    """Train all models at once with Adam; each shuffles on its own; the last batch may be smaller.

    Permutations and noise of an epoch depend only on the seed and the number of the epoch (and
    permutations on the index of the model), so a resumed run gives the same numbers as one that was
    never interrupted.

    Args:
        trainee: trained in place.
        dataset: pairs to train on.
        settings: settings of the run.
        checkpoint: file to save to, and to resume from if it exists.
        curve_grid: grid on which D_KL is measured after each epoch; None: not measured.
        models: indices of the models, which determine their permutations; by default 0, 1, ...
        on_epoch: called with the number of finished epochs, at the start and after each.
        stop: when it is set, training raises :class:`Interrupted` after the current step.
        save_every: number of epochs between two checkpoints.

    Returns:
        ``loss`` (epochs, E): mean training loss of each model; ``kl`` (epochs, E), on the curve
        grid; ``seconds`` (epochs,).
    """
    models = range(settings.models) if models is None else models
    optimizer = torch.optim.Adam(trainee.parameters(), lr=settings.learning_rate, foreach=True)
    history = {name: [] for name in ("loss", "kl", "seconds")}
    if checkpoint is not None and checkpoint.exists():
        history = load_checkpoint(checkpoint, trainee, optimizer)
    on_epoch(len(history["loss"]))
    for epoch in range(len(history["loss"]), settings.epochs):
        start = time.perf_counter()
        history["loss"].append(_epoch(trainee, dataset, settings, models, epoch, optimizer, stop))
        history["seconds"].append(torch.tensor(time.perf_counter() - start))
        if curve_grid is not None:
            history["kl"].append(kl_to_truth(trainee.density, curve_grid).float())
        finished = epoch + 1
        if checkpoint is not None and (finished % save_every == 0 or finished == settings.epochs):
            save_checkpoint(checkpoint, trainee, optimizer, history)
        on_epoch(finished)
    return {name: torch.stack(values) for name, values in history.items() if values}


def _epoch(
    trainee: Trainee,
    dataset: Dataset,
    settings: Settings,
    models: Sequence[int],
    epoch: int,
    optimizer: torch.optim.Optimizer,
    stop: threading.Event | None,
) -> Tensor:
    """Mean loss (E,) of one pass over the data."""
    seed, n = settings.seed, len(dataset.x)
    order = torch.stack(
        [torch.randperm(n, generator=generator(seed, "order", epoch, m)) for m in models]
    )
    noise = generator(seed, "noise", epoch)
    total = torch.zeros(len(models))
    for batch in order.split(settings.batch_size, dim=1):
        if stop is not None and stop.is_set():
            raise Interrupted
        # The gradient of Σ w_n L_n / B with respect to w_n gives the loss of every target.
        weight = torch.ones(batch.numel(), requires_grad=True)
        loss = trainee.loss(dataset.x[batch], dataset.y[batch], weight, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += weight.grad.view(batch.shape).sum(1) * batch.shape[1]
    return total / n


def save_checkpoint(
    path: Path, trainee: Trainee, optimizer: torch.optim.Optimizer, history: dict
) -> None:
    """Write everything that a run needs to continue, atomically."""
    state = {"trainee": trainee.state_dict(), "optimizer": optimizer.state_dict()}
    with open_atomic(path) as file:
        torch.save({**state, "history": history}, file)


def load_checkpoint(
    path: Path, trainee: Trainee, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, list[Tensor]]:
    """Restore the networks (and the optimiser), and return the history so far.

    Raises:
        ValueError: the file exists but cannot be read; this does not count as absent.
    """
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # any error that reading an invalid checkpoint may raise
        raise ValueError(
            f"{path} cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]}). It "
            "is kept; remove it to have this run trained again"
        ) from error
    trainee.load_state_dict(state["trainee"])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    return state["history"]
