"""A data set of generated images, whose true density of the label is known."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from mmdet.registry import DATASETS
from mmengine.dataset import Compose
from torch.utils.data import Dataset

from .generated import SIZE, TASKS, GeneratedTask
from .target_space import target_statistics

__all__ = ["GeneratedRegressionDataset"]

_MOST_CACHED = 4 * 2**30
_STATISTICS_IMAGES = 10_000


@DATASETS.register_module()
class GeneratedRegressionDataset(Dataset):
    """Endless generated images with targets: image `i` is a function of ``(seed, i)`` alone.

    With a large `num_images` a training run never sees an image twice. Take another `seed` for
    validation and testing. Images depend neither on the number of workers nor on the order of
    access nor on where a run was resumed.

    A sample has ``img`` (64, 64, 3) uint8 BGR, ``gt_target`` (D,) float32 in raw units, ``group``
    (the kind of image, where the task has kinds), and, where the density is known,
    ``oracle_log_prob``, log p(gt_target | img) in nats. If that density is a mixture of normal
    distributions, ``oracle_weights`` (K,), ``oracle_means`` (K, D) and ``oracle_stds`` (K, D) are
    its parameters. ``metainfo['target']`` describes the target.

    Args:
        task: ``cells``, ``road``, ``head``, ``rings`` or ``digits``.
        variant: variant of the task; its first one if None. The variants of ``digits`` are
            ``train``, ``val`` and ``test``: no scan is in two of them.
        num_images: length of the set.
        seed: number of the endless set, ``0 <= seed < 2**32``.
        cache: keep the images in memory, so that they are rendered once and not once per epoch.
            `full_init`, which mmengine calls before training, renders all of them. Forked workers
            share them, and so do equal data sets of one process, which keeps the images of the last
            three. Grey tasks (``cells``, ``digits``) take 4 KiB per image, the others 12 KiB: 16 or
            49 MB for 4,000 images.
        pipeline: transforms; they receive an image that is already loaded.

    Raises:
        ValueError: unknown task or variant, `num_images` below one, or a cache above 4 GiB.
        IndexError: an index is outside ``0 .. num_images - 1``.
    """

    def __init__(
        self,
        task: str = "cells",
        variant: str | None = None,
        num_images: int = 4000,
        seed: int = 0,
        cache: bool = False,
        pipeline: Sequence = (),
    ) -> None:
        if task not in TASKS:
            raise ValueError(f"there is no task {task!r}; there are {', '.join(map(repr, TASKS))}")
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images}")
        if cache and num_images * SIZE * SIZE * 3 > _MOST_CACHED:
            raise ValueError(
                f"cache=True would keep {num_images} images, up to "
                f"{num_images * SIZE * SIZE * 3 / 2**30:.1f} GiB; set cache=False or num_images to "
                f"at most {_MOST_CACHED // (SIZE * SIZE * 3)}"
            )
        self.task_name = task
        self.variant = self.task.variants[0] if variant is None else variant
        self.num_images = num_images
        self.seed = seed
        self.cache = cache
        self._images: np.ndarray | None = None
        self.task.label(seed, 0, self.variant)  # unknown variants and seeds stop here
        self.metainfo: dict[str, Any] = {"target": self.task.describe(self.variant), "task": task}
        self.pipeline = Compose(list(pipeline))

    @property
    def task(self) -> GeneratedTask:
        """The task."""
        return TASKS[self.task_name]

    def full_init(self) -> None:
        """Render the cache, if there is to be one; mmengine's runner calls this."""
        if not self.cache or self._images is not None:
            return
        self._images = _rendered(self.task_name, self.variant, self.num_images, self.seed)

    def __getstate__(self) -> dict:
        # Rendering again is cheaper than sending the images to a worker that is not forked.
        return {**self.__dict__, "_images": None}

    def __len__(self) -> int:
        return self.num_images

    def _render(self, index: int) -> np.ndarray:
        return _render(self.task, self.variant, self.seed, index)

    def img_path(self, index: int) -> str:
        """Name of image `index`, which says what it is a function of."""
        return f"{self.task.name}://{self.variant}/{self.seed}/{index}"

    def get_data_info(self, index: int) -> dict:
        """Everything about image `index` but its pixels, which are not rendered.

        Raises:
            IndexError: the index is outside ``0 .. num_images - 1``.
        """
        index = int(index)
        if not 0 <= index < self.num_images:
            raise IndexError(f"index {index} is outside 0 .. {self.num_images - 1}")
        target, latent, truth = self.task.label(self.seed, index, self.variant)
        info: dict[str, Any] = {
            "sample_idx": index,
            "img_path": self.img_path(index),
            "gt_target": target,
            "flip_signs": self.metainfo["target"]["flip_signs"],
        }
        if self.task.group is not None:
            info["group"] = self.task.group(latent)
        if truth is not None:
            info["oracle_log_prob"] = float(truth.log_prob(target))
        for key in ("weights", "means", "stds"):
            if hasattr(truth, key):
                info[f"oracle_{key}"] = getattr(truth, key).astype(np.float32)
        return info

    def __getitem__(self, index: int) -> dict:
        results = self.get_data_info(index)
        self.full_init()
        index = results["sample_idx"]
        image = self._render(index) if self._images is None else self._images[index]
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        elif self._images is not None:
            image = image.copy()  # a transform may write to it
        shape = image.shape[:2]
        return self.pipeline({**results, "img": image, "img_shape": shape, "ori_shape": shape})

    def target_statistics(self) -> dict:
        """Mean, standard deviation and extremes of the targets, for a codec that standardises.

        Returns:
            ``dict(mean=[...], std=[...], min=[...], max=[...], count=n)``, D numbers each in raw
            units, from the first 10,000 images at most, without rendering any.
        """
        count = min(self.num_images, _STATISTICS_IMAGES)
        targets = [self.task.label(self.seed, i, self.variant)[0] for i in range(count)]
        return target_statistics(np.stack(targets))


def _render(task: GeneratedTask, variant: str, seed: int, index: int) -> np.ndarray:
    _, latent, _ = task.label(seed, index, variant)
    return task.image(seed, index, latent)


@lru_cache(maxsize=3)
def _rendered(task_name: str, variant: str, num_images: int, seed: int) -> np.ndarray:
    """All images of a set, read-only, because several data sets may hold them."""
    task, images = TASKS[task_name], None
    for index in range(num_images):
        image = _render(task, variant, seed, index)
        if images is None:
            images = np.empty((num_images, *image.shape), np.uint8)
        images[index] = image
    assert images is not None
    images.flags.writeable = False
    return images
