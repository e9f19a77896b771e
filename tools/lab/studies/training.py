"""Train a head on cached features, according to its config."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from mmdet.registry import PARAM_SCHEDULERS
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.runner import set_random_seed

from ebm_mmdet.apis.feature_cache import TrainingView, collate
from ebm_mmdet.models.heads import EBMBBoxHead

__all__ = ["Trained", "train_head"]

VIEWS_PER_ITERATION = 8


class Trained(NamedTuple):
    """The result of a training."""

    head: EBMBBoxHead
    """The trained head, in eval mode."""
    seconds: float
    """Wall time in seconds, without caching of features."""
    losses: list[float]
    """Mean loss of each tenth of the training."""


def train_head(
    build: Callable[[], EBMBBoxHead],
    views: Sequence[TrainingView],
    recipe: ConfigDict,
    seed: int,
    boxes_per_iteration: int = 32,
) -> Trained:
    """Train a head with the optimiser, schedule and number of iterations of a config.

    Args:
        build: makes an energy head, or a rival with the same ``prepare`` and ``loss``.
        views: cached training images.
        recipe: config with ``optim_wrapper``, ``param_scheduler`` and ``train_cfg.max_iters``.
        seed: seed of initialisation, order and noise.
        boxes_per_iteration: number of annotations per step, from eight views.
    """
    set_random_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    head = build().train()
    optimiser = build_optim_wrapper(head, recipe.optim_wrapper)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(scheduler), default_args=dict(optimizer=optimiser))
        for scheduler in recipe.param_scheduler
    ]
    iterations = recipe.train_cfg.max_iters
    total, losses, start = 0.0, [], time.perf_counter()
    for iteration in range(1, iterations + 1):
        chosen = torch.randint(len(views), (VIEWS_PER_ITERATION,), generator=generator).tolist()
        neck, *targets = collate(
            [views[i] for i in chosen], boxes_per_iteration // VIEWS_PER_ITERATION, generator
        )
        parts = head.loss(head.prepare(neck), *targets)
        loss = sum(value for name, value in parts.items() if name.startswith("loss"))
        optimiser.update_params(loss)
        for scheduler in schedulers:
            scheduler.step()
        total += loss.item()
        if iteration % max(iterations // 10, 1) == 0:
            losses.append(total / max(iterations // 10, 1))
            total = 0.0
    return Trained(head.eval(), time.perf_counter() - start, losses)
