"""What the study of intervals asks of boxes: in images here, in 3D in :mod:`.intervals_3d`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from torch import Tensor, nn

from ebm_mmdet.apis import MatchedSides, fit_intervals, matched_sides
from ebm_mmdet.models.detectors.side_intervals import SPREADS, SideIntervals
from ebm_mmdet.models.side_uncertainty import side_lengths

from .replay import Replay

__all__ = ["FINEST_GROUP", "POOLED", "BoxKind", "ImageBoxes"]

FINEST_GROUP = 100
"""``min_count`` of bounds by class and size; see :func:`~ebm_mmdet.apis.calibrate`."""
POOLED = 10**9


class BoxKind(Protocol):
    """What is different between boxes in images and boxes in 3D.

    ``found`` is a named tuple of n matched detections: ``residual`` (n, D), ``labels`` (n,),
    ``image`` (n,), others of n rows, and last ``kind``, the name of the spread.
    """

    spreads: Sequence[str]
    """Names of the spreads to try."""
    groups: Mapping[str, str]
    """Headings of groups by size, by their key in a row."""
    units: Mapping[str, str]
    """Headings of mean widths, by their key in a row."""

    def num_classes(self, model: nn.Module, dataset: Sequence) -> int:
        """Number of classes that labels may have."""

    def match(self, model: Replay, dataset: Sequence, level: float, spread: str) -> tuple:
        """``found`` of a data set; ValueError if the detections lack the spread."""

    def ways(self, num_classes: int) -> Mapping[str, dict]:
        """The options for :meth:`fit` and :meth:`reach`, by the name of how bounds are made."""

    def fit(self, found: tuple, num_classes: int, level: float, **options) -> object:
        """Intervals with ``facts["detections"]``, from detections to calibrate on."""

    def reach(self, intervals: object, found: tuple, **options) -> Tensor:
        """(n, D, 2) how far intervals go below and above, in the units of ``residual``."""

    def gaussian(self, z: float, found: tuple) -> Tensor:
        """The same for z standard deviations."""

    def members(self, found: tuple) -> dict[str, Tensor]:
        """(n,) bool for each of ``groups``."""

    def widths(self, found: tuple, reach: Tensor) -> dict[str, float]:
        """For each of ``units``."""


class ImageBoxes:
    """Sides of boxes in images; see :class:`BoxKind`."""

    spreads = SPREADS
    groups: ClassVar = {"small": "below 32 px", "medium": "above"}
    units: ClassVar = {"width": "width, px"}

    def num_classes(self, model: nn.Module, dataset: Sequence) -> int:
        return len(model.dataset_meta["classes"])

    def match(self, model: Replay, dataset: Sequence, level: float, spread: str) -> MatchedSides:
        return matched_sides(model, dataset, level, spread)

    def ways(self, num_classes: int) -> dict[str, dict]:
        return {
            "one for all": dict(min_count=POOLED),
            "by class and size": dict(min_count=FINEST_GROUP),
            "one for all, by image": dict(min_count=POOLED, by_image=True),
            "joint": dict(min_count=POOLED, joint=True),
        }

    def fit(self, found: MatchedSides, num_classes: int, level: float, **options) -> SideIntervals:
        return fit_intervals(found, num_classes, level, **options)

    def reach(self, intervals: SideIntervals, found: MatchedSides, **options) -> Tensor:
        size = intervals.size_index(found.boxes)
        return intervals.bounds[found.labels, size][..., None] * found.spread

    def gaussian(self, z: float, found: MatchedSides) -> Tensor:
        return z * found.spread

    def members(self, found: MatchedSides) -> dict[str, Tensor]:
        size = side_lengths(found.boxes)
        small = (size[:, 0] * size[:, 1]).sqrt() < 32
        return dict(small=small, medium=~small)

    def widths(self, found: MatchedSides, reach: Tensor) -> dict[str, float]:
        return dict(width=float((reach.sum(-1) * side_lengths(found.boxes)).mean()))
