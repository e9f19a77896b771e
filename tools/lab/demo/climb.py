"""The path of one detection during refinement, and its object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Climb", "first_matches", "log_density_at", "most_found", "typical_gains"]

FOUND = 0.5
"""Smallest IoU at which a detection belongs to an object."""


class Climb(NamedTuple):
    """The path of one detection, and its object; D is 4 in images and 7 in scenes."""

    scene: np.ndarray
    """(H, W, 3) uint8 RGB, the network's input; or (N, 4) the points of the frame."""
    truth: np.ndarray
    """(D,) xyxy in pixels of `scene`; or ``(x, y, z, l, w, h, yaw)`` in the LiDAR frame."""
    path: np.ndarray
    """(T + 1, D), the box after each step."""
    iou: np.ndarray
    """(T + 1,), IoU with the truth after each step."""
    log_density: Callable[[Tensor], Tensor]
    """Function of encoded offsets (S, D) from `path[0]` that returns f (S,)."""
    number: int
    """Number of the image or frame."""

    @property
    def gain(self) -> float:
        """The increase of the IoU."""
        return float(self.iou[-1] - self.iou[0])

    def until(self, step: int) -> Climb:
        """Return the same climb with at most ``step`` steps."""
        return self._replace(path=self.path[: step + 1], iou=self.iou[: step + 1])


def first_matches(overlaps: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pair objects with detections: every object in turn takes the best remaining detection.

    Args:
        overlaps: (G, n) IoU of G objects with n detections; 0 for pairs that are not allowed.

    Yields:
        Row of the object and row of the detection, for pairs with an IoU of at least 0.5.
    """
    overlaps = overlaps.copy()
    for row, values in enumerate(overlaps):
        if values.size and values.max() >= FOUND:
            best = int(values.argmax())
            overlaps[:, best] = 0  # taken
            yield row, best


def log_density_at(fn, row: int) -> Callable[[Tensor], Tensor]:
    """The log-density of one target: encoded points (S, D) to f (S,), without gradients.

    Args:
        fn: f of all targets, with `select`.
        row: Row of the target.
    """
    fn = fn.select(torch.tensor([row]))

    def log_density(offsets: Tensor) -> Tensor:
        with torch.inference_mode():
            return fn(offsets[None])[0]

    return log_density


def typical_gains(climbs: Sequence[Climb], count: int) -> list[Climb]:
    """Choose objects evenly among the better half of all gains in IoU, best first.

    A picture of the best gain would be misleading, and one without a gain would show nothing.
    """
    order = np.argsort([climb.gain for climb in climbs])[::-1][: max(count, len(climbs) // 2)]
    chosen = order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]
    return [climbs[i] for i in chosen]


def most_found(climbs: Sequence[Climb], count: int) -> list[list[Climb]]:
    """Return the climbs of the images with the most objects found, one list per image."""
    by_image: dict[int, list[Climb]] = {}
    for climb in climbs:
        by_image.setdefault(climb.number, []).append(climb)
    return sorted(by_image.values(), key=len, reverse=True)[:count]
