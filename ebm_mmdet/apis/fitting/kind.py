"""What a fit needs to know of a kind of boxes: those in images, or those in LiDAR frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from mmengine.config import Config
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..feature_cache import TrainingView
    from .data import FitData
    from .detections import Detected, Method

__all__ = ["Items", "Kind", "Matched"]


class Items(Protocol):
    """Images or frames of a data set, with their annotations, read by the test pipeline."""

    dataset: Any
    indices: list[int]

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> dict: ...


class Matched(Protocol):
    """Detections that are matched to annotations."""

    def metrics(self, weights: np.ndarray | None = None) -> np.ndarray:
        """The metrics of :attr:`Kind.headings` in [0, 1], for weights of the items."""


class Kind(Protocol):
    """The parts of a fit that differ between images and LiDAR frames.

    The steps, their order, the files and the verdict are the same. ``model`` is an ``EBMDetector``
    or an ``EBM3DDetector``; residuals and offsets have ``dim`` coordinates in the frame of the
    detection.
    """

    noun: str
    """``'image'`` or ``'frame'``."""
    settings: Mapping
    """Settings of its own, which a fit in a folder has to keep."""
    dim: int
    """D, the number of encoded coordinates."""
    headings: Mapping[str, str]
    """Metrics by their name in files, with their heading in the table; ``AP`` is the first, by
    which settings are compared, and ``IoU_TP`` is among them."""
    high: str
    """The metric at a high IoU that the verdict names too."""
    described: str
    """Sentences about the metrics for the page."""
    delivered: Mapping
    """Settings of the wrapper with which boxes are judged, for the written config."""
    precise_iou: float
    """Mean IoU of matched boxes in percent from which a detector is as precise as annotations."""

    def refuse(self, cfg: Config) -> None:
        """Raise ``ValueError`` for a config of the other kind."""

    def begin(self, cfg: Config) -> None:
        """Called before anything is built."""

    def add_energy_head(
        self, cfg: Config, checkpoint: Path, max_iters: int, **about: Any
    ) -> Config:
        """The config with an energy head; ``about`` is :meth:`about_data`, and ``residuals``."""

    def write_config(
        self,
        config: str,
        checkpoint: Path,
        out: Path,
        max_iters: int,
        tuned: Mapping | None = None,
        **about: Any,
    ) -> Path:
        """Write it as a file; an existing one is not overwritten."""

    def about_data(self, data: FitData) -> dict:
        """Arguments of :meth:`add_energy_head` that follow from the data."""

    def regressor(self, energy_head: Mapping, num_boxes: int) -> nn.Module:
        """The regression head with which the energy head is compared."""

    def dataset(self, config: Mapping) -> Any:
        """Build a data set."""

    def plain_dataset(self, config: Mapping, pipeline: Sequence[Mapping]) -> dict:
        """Config of the same data with the steps of the test pipeline."""

    def item_set(self, dataset: Any, indices: Sequence[int], cfg: Config) -> Any:
        """Some items of a data set, see :class:`Items`."""

    def key(self, info: Mapping) -> str:
        """What tells items of a data set apart."""

    def count(self, dataset: Any, info: Mapping, num_classes: int, part: str) -> int | None:
        """Number of usable boxes of an item; None where only the pipeline knows them.

        Raises ``ValueError`` if labels do not fit the detector; ``part`` of the data is for the
        message.
        """

    def gives_boxes(self, sample: Any) -> bool:
        """Whether a sample of a training pipeline has boxes."""

    def limits(self, cfg: Config, most: int) -> list[str]:
        """Notes about items with up to ``most`` objects."""

    def view(self, model: Any, data: FitData, index: int) -> TrainingView | None:
        """Maps and boxes of an augmented training item; None if it cannot be trained on."""

    def detect(self, model: Any, item: dict, max_dets: int) -> Detected:
        """The detector's best boxes."""

    def refine(self, model: Any, method: Method, found: Detected) -> tuple[Any, float]:
        """Its boxes after a method, and seconds."""

    def scores(self, found: Detected) -> Tensor:
        """Classification scores (n,)."""

    def facts(self, found: Detected) -> dict:
        """What :meth:`object_cells` needs to know of the item, for a file."""

    def records(self, position: int, found: Any, num_classes: int) -> list[dict]:
        """Boxes of an item for a file."""

    def num_objects(self, items: Any, positions: Sequence[int]) -> int:
        """Number of annotated objects."""

    def matched(
        self,
        items: Any,
        positions: Sequence[int],
        records: Sequence[Sequence[dict]],
        num_classes: int,
        max_dets: int,
    ) -> Matched:
        """Match the records of each item to its annotations."""

    def residuals(
        self, items: Any, position: int, found: Detected, num_classes: int, score_thr: float
    ) -> Tensor:
        """Truth minus detection (n, D) of the boxes that match an object; finite."""

    def fixed_offset(self, offset: Tensor) -> Callable:
        """The refiner that moves every box by a residual (D,)."""

    def regression_step(self, head: nn.Module, length: float) -> Callable:
        """The refiner that moves every box by a share of what the regressor says."""

    def prior(self, residuals: Tensor) -> tuple[list[float], list[float] | None] | None:
        """Spread and bias of a prior around the detections; no bias, or no prior, if None."""

    def object_cells(self, items: Any, result: Mapping, cfg: Config) -> list[float]:
        """Sides of the objects of a judged item, in cells of the finest map."""

    def reads(self, model: Any, cfg: Config) -> str:
        """A clause about the maps that the head reads."""

    def write_pictures(
        self,
        folder: Path,
        model: Any,
        method: Method,
        items: Any,
        positions: Sequence[int],
        classes: Sequence[str],
        max_dets: int,
    ) -> list[str]:
        """Draw items before and after; returns the names of the files."""

    def commands(self, config: Path, checkpoint: Path, cfg: Config) -> list[str]:
        """Lines for the page that use the result; ``cfg`` is the content of the config."""
