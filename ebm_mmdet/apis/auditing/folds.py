"""Energy heads that have not seen the annotations that they judge."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.runner import set_random_seed
from torch import nn

from ...energy import NCEObjective
from ...models.detectors.trunk_init import copy_trunk_from_box_head
from ..fitting.clock import Clock
from ..fitting.kl_regressor import KLRegressor
from ..fitting.rivals import rival_boxes
from ..fitting.training import HeadTraining
from .annotations import AnnotatedImage
from .features import ViewCache
from .source import Source

__all__ = ["assign_folds", "new_gaussian", "new_head", "train_head"]

OPTIMIZER = ConfigDict(
    type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01)
)
"""For a config without ``optim_wrapper``; that of ``add_energy_head``."""


def assign_folds(images: Sequence[AnnotatedImage], folds: int, seed: int) -> list[list[int]]:
    """Deal images out to folds at random, so that each has about as many boxes.

    Args:
        images: the images.
        folds: number of folds, at least 2.
        seed: of the order.

    Returns:
        Positions of the images of each fold.

    Raises:
        ValueError: there are fewer images with boxes than folds.
    """
    with_boxes = sum(bool(len(each.rows)) for each in images)
    if with_boxes < folds:
        # The head of a fold learns from the others, so that one image cannot be dealt out at all.
        fewer = f"--folds {with_boxes} or fewer, or " if with_boxes > 1 else ""
        raise ValueError(
            f"{with_boxes} image{'s' * (with_boxes != 1)} with boxes cannot be dealt out to "
            f"{folds} folds; give {fewer}--folds 0, where one head judges all"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    order = sorted(order, key=lambda i: -len(images[i].rows))  # stable: equal ones stay shuffled
    dealt: list[list[int]] = [[] for _ in range(folds)]
    boxes = np.zeros(folds)
    for index in order:
        fold = int(np.lexsort(([len(part) for part in dealt], boxes))[0])
        dealt[fold].append(int(index))
        boxes[fold] += len(images[index].rows)
    return dealt


def new_head(source: Source) -> nn.Module:
    """The energy head of the config, not trained."""
    head = MODELS.build(copy.deepcopy(source.cfg.model.energy_head))
    copy_trunk_from_box_head(source.model.detector, head)
    return head.to(next(source.model.parameters()).device)


def new_gaussian(source: Source) -> dict[str, KLRegressor]:
    """A Gaussian for each side, on the maps and of the size of the energy head, not trained.

    It learns from a quarter of the boxes that the energy head learns from.

    Returns:
        It, named ``gaussian``; nothing if the objective of the energy head is not NCE's, whose
        noise these boxes are drawn from.
    """
    if not isinstance(source.model.energy_head.objective, NCEObjective):
        return {}
    settings = source.cfg.model.energy_head
    gaussian = KLRegressor(settings, rival_boxes(settings))
    copy_trunk_from_box_head(source.model.detector, gaussian)
    return {"gaussian": gaussian.to(next(source.model.parameters()).device)}


def train_head(
    source: Source,
    views: Callable[[], ViewCache],
    left_out: Sequence[int],
    path: Path,
    iterations: int,
    seconds: Callable[[], float],
    clock: Clock,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
    others: Callable[[], dict[str, nn.Module]] = dict,
) -> HeadTraining:
    """Train a head on all views but those of some images; an interrupted training goes on.

    Args:
        source: the detector.
        views: makes the features with their annotations; called if there is something to train.
        left_out: positions of the images that the head must not see.
        path: file of the state.
        iterations: at most.
        seconds: gives the time for the rest of this training, once the features are there.
        clock: of the audit.
        seed: of the head, the order and the noise.
        progress: receives the share that is done.
        others: makes further heads, by name, that learn from the same batches.
    """
    set_random_seed(seed)
    heads = {"energy": new_head(source), **others()}
    optimizer = source.cfg.get("optim_wrapper") or OPTIMIZER
    training = HeadTraining(heads, optimizer, path, iterations, seed)
    if not training.finished:
        draw = views().without(set(left_out))
        training.run(draw, training.seconds + seconds(), clock, progress)
    return training
