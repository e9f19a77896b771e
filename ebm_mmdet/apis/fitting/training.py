"""Train the energy head and the ordinary regression head, on the same batches, within a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from torch import nn

from ...engine import read_checkpoint, write_checkpoint
from ..head_settings import FINAL_RATE
from .clock import Clock
from .views import Batch

__all__ = ["HeadTraining", "learning_rate_factor"]

SAVE_SECONDS = 30.0
WARM_UP = 0.05
"""Share of the training."""


def learning_rate_factor(progress: float) -> float:
    """Factor on the learning rate at a share of the training: warm-up, then a cosine to 0.01.

    It is the schedule that ``add_energy_head`` writes.
    """
    if progress < WARM_UP:
        return 1 / 3 + (2 / 3) * progress / WARM_UP
    angle = math.pi * min((progress - WARM_UP) / (1 - WARM_UP), 1.0)
    return FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(angle)) / 2


class HeadTraining:
    """Several heads that learn from the same batches; it goes on where it was interrupted.

    The training ends after its time or after its iterations, whichever is first, and the learning
    rate follows the larger share of the two. So it is complete also on a machine that has become
    slower.

    Args:
        heads: the heads by name, each with ``prepare`` and ``loss`` of ``EBMBBoxHead``.
        optim_wrapper: config of the optimizer, one for each head.
        path: file of the state.
        max_iters: iterations at most.
        seed: seed of order and noise.
    """

    def __init__(
        self,
        heads: Mapping[str, nn.Module],
        optim_wrapper: ConfigDict,
        path: Path,
        max_iters: int,
        seed: int = 0,
    ) -> None:
        self.heads, self.path, self.max_iters = dict(heads), path, max_iters
        self.optimizers = {
            name: build_optim_wrapper(head, optim_wrapper) for name, head in heads.items()
        }
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.iteration, self.seconds = 0, 0.0
        self.losses: dict[str, list[float]] = {name: [] for name in heads}
        """Mean loss of each hundred iterations, or of all if there are fewer."""
        self.finished = False
        if path.exists():
            self._load()

    def run(
        self,
        draw: Callable[[torch.Generator], Batch],
        seconds: float,
        clock: Clock,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        """Train until the end, saving the state every half a minute and when interrupted.

        Args:
            draw: makes a batch.
            seconds: time for the whole training, of which earlier calls have used a part.
            clock: clock of the fit, saved together with the state.
            progress: receives the share that is done.

        Raises:
            RuntimeError: a loss is not finite.
        """
        before, start = self.seconds, clock.used()
        saved, sums, count = start, dict.fromkeys(self.heads, 0.0), 0
        for head in self.heads.values():
            head.train()
        try:
            while (share := self._share(seconds)) < 1:
                batch = draw(self.generator)
                for name, loss in self._step(batch, learning_rate_factor(share)).items():
                    sums[name] += loss
                count += 1
                self.iteration += 1
                now = clock.used()
                self.seconds = before + now - start
                if count == 100:
                    for name in sums:
                        self.losses[name].append(sums[name] / count)
                    sums, count = dict.fromkeys(self.heads, 0.0), 0
                if now - saved > SAVE_SECONDS:
                    self.save(clock)
                    saved = now
                progress(share)
            self.finished = True
            for name in sums:
                if count and not self.losses[name]:  # a training of less than a hundred iterations
                    self.losses[name].append(sums[name] / count)
        finally:
            self.save(clock)
        for head in self.heads.values():
            head.eval()

    def _share(self, seconds: float) -> float:
        if self.finished:
            return 1.0
        return max(self.iteration / self.max_iters, self.seconds / max(seconds, 1e-9))

    def _step(self, batch: Batch, factor: float) -> dict[str, float]:
        maps, *targets = batch
        losses = {}
        for name, head in self.heads.items():
            optimizer = self.optimizers[name]
            for group in optimizer.optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * factor
            device = next(head.parameters()).device
            feats = head.prepare([level.to(device) for level in maps])
            parts = head.loss(feats, *(each.to(device) for each in targets))
            loss = sum(value for key, value in parts.items() if key.startswith("loss"))
            losses[name] = float(loss.detach())
            if not torch.isfinite(loss):
                raise RuntimeError(
                    f"the loss of the {name} head is {losses[name]} at iteration {self.iteration}; "
                    "the features or boxes of a training image are not finite, or the training "
                    "has diverged: try another --seed with a new folder, or train the config of "
                    "add-head with a smaller learning rate"
                )
            optimizer.update_params(loss)
        return losses

    def save(self, clock: Clock) -> None:
        """Write the state, complete or not at all."""
        state = dict(
            heads={name: head.state_dict() for name, head in self.heads.items()},
            optimizers={name: each.state_dict() for name, each in self.optimizers.items()},
            generator=self.generator.get_state(),
            noise=torch.get_rng_state(),
            noise_of_gpus=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            iteration=self.iteration,
            seconds=self.seconds,
            losses=self.losses,
            finished=self.finished,
        )
        write_checkpoint(self.path, state)
        clock.save()

    def _load(self) -> None:
        state = read_checkpoint(self.path)
        for name, head in self.heads.items():
            head.load_state_dict(state["heads"][name])
            self.optimizers[name].load_state_dict(state["optimizers"][name])
            head.eval()
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["noise"])
        of_gpus = state.get("noise_of_gpus", [])
        if of_gpus and len(of_gpus) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(of_gpus)
        self.iteration, self.seconds = state["iteration"], state["seconds"]
        self.losses, self.finished = state["losses"], state["finished"]
