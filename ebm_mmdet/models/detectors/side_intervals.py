"""Calibrated intervals of box sides, as a part of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..pixels import box_scale, network_pixels
from ..side_uncertainty import covariance_to_side_std, side_lengths, side_std_to_covariance
from ..uncertain_instances import UncertainInstances
from .detector_wrapper import detector_covariance

__all__ = [
    "INTERVAL_KINDS",
    "META_KEY",
    "SPREADS",
    "SideIntervals",
    "attach_intervals",
    "relative_spread",
]

META_KEY = "side_intervals"
"""Entry of a checkpoint's ``meta``."""
SPREADS = ("std", "samples", "size", "pixels")
MIN_SPREAD = 1e-3
"""Smallest spread as a share of the box: a spread of zero, as from one sample, has no multiple."""


def relative_spread(
    found: InstanceData, kind: str, level: float, file_pixels: Tensor | float = 1.0
) -> Tensor:
    """Spread of each side below and above the predicted one, as a share of the box's size.

    Args:
        found: ``bboxes`` (n, 4), and what ``kind`` needs.
        kind: ``'std'``: the standard deviation, from ``box_cov``, ``box_std`` or ``side_std``;
            ``'samples'``: the distance to the (1 - level) / 2 and (1 + level) / 2 quantiles of
            ``box_samples``; ``'size'``: 1, the size itself; ``'pixels'``: one pixel of the file.
        level: for ``'samples'``.
        file_pixels: (4,) pixels of the image file per pixel of ``bboxes``.

    Returns:
        (n, 4, 2) float32, 0.001 at least, width for x1 and x2, height for y1 and y2. Infinite where
        it would not be finite.

    Raises:
        ValueError: the detections lack what ``kind`` needs.
    """
    boxes = found.bboxes.float()
    size = side_lengths(boxes)
    if kind == "size":
        return size.new_ones(*size.shape, 2)
    if kind == "pixels":
        return (1 / (size * file_pixels))[..., None].expand(-1, -1, 2)
    if kind == "samples":
        if "box_samples" not in found:
            raise ValueError(_missing(found, kind, "box_samples (n, S, 4)"))
        ends = found.bboxes.new_tensor([(1 - level) / 2, (1 + level) / 2]).float()
        low, high = found.box_samples.float().quantile(ends, dim=1)
        spread = torch.stack((boxes - low, high - boxes), dim=-1) / size[..., None]
    else:
        std = _side_std(found)
        if std is None:
            raise ValueError(_missing(found, kind, "box_cov, box_std or side_std"))
        spread = (std / size)[..., None].expand(-1, -1, 2)
    spread = spread.clamp(min=MIN_SPREAD)
    return torch.where(spread.isfinite(), spread, torch.inf)


def _side_std(found: InstanceData) -> Tensor | None:
    covariance = detector_covariance(found)
    if covariance is not None:
        return covariance_to_side_std(found.bboxes, covariance)
    return found.side_std.float() if "side_std" in found else None


def _missing(found: InstanceData, kind: str, wanted: str) -> str:
    others = ["size", "pixels"]
    if kind != "samples" and "box_samples" in found:
        others.insert(0, "samples")
    if kind != "std" and _side_std(found) is not None:
        others.insert(0, "std")
    return (
        f"intervals from {kind!r} need {wanted}, and detections have {sorted(found.keys())}; give "
        "the model a refiner that computes it, or calibrate with another spread: "
        f"{', '.join(others)}"
    )


@dataclass
class SideIntervals:
    """Adds calibrated intervals to detections.

    The interval of a side is the box's side, less ``bounds`` times its spread below, and plus
    ``bounds`` times its spread above (:func:`relative_spread`). ``bounds`` depend on the class and
    on the size of the detected box. :func:`ebm_mmdet.apis.calibrate` makes them.

    Detections gain ``interval_reach`` (n, 4, 2), the widths as shares of the box, from which
    ``side_interval`` (n, 4, 2) follows, in the pixels of ``bboxes``
    (:class:`~ebm_mmdet.models.UncertainInstances`).
    """

    attribute: ClassVar[str] = META_KEY
    """Of a model that applies them itself, and entry of a checkpoint's ``meta``."""
    adds: ClassVar[str] = "side_interval"

    level: float
    """Probability that an interval holds; of all four at once, if ``joint``."""
    joint: bool
    spread: str
    """Kind of :func:`relative_spread`."""
    bounds: Tensor
    """(classes + 1, sizes + 1, 4 or 1) float32; the last row is for labels without a class."""
    edges: tuple[float, ...] = (32.0, 96.0)
    """Between sizes: square root of the box's area in pixels of the file; COCO's."""
    facts: dict = field(default_factory=dict)
    """How it was calibrated; plain values."""

    def __post_init__(self) -> None:
        if self.spread not in SPREADS:
            raise ValueError(f"spread={self.spread!r}; use one of {', '.join(SPREADS)}")
        shape = (len(self.edges) + 2, 1 if self.joint else 4)
        if self.bounds.dim() != 3 or tuple(self.bounds.shape[1:]) != shape:
            raise ValueError(
                f"bounds have the shape {tuple(self.bounds.shape)}; expected (classes + 1, "
                f"{shape[0]}, {shape[1]}) for {len(self.edges)} edges and joint={self.joint}"
            )

    def size_index(self, boxes: Tensor, file_pixels: Tensor | float = 1.0) -> Tensor:
        """(n,) int64 index of the size of boxes (n, 4), whose pixels are ``file_pixels`` wide."""
        area = (side_lengths(boxes) * file_pixels)[:, :2].prod(1)
        return torch.bucketize(area.sqrt(), boxes.new_tensor(self.edges).float(), right=True)

    def add_to(self, sample: DetDataSample, rescale: bool = True) -> None:
        """Give the ``pred_instances`` of an image their intervals, in place.

        Args:
            sample: the image.
            rescale: whether boxes are in pixels of the file, and not of the network's input.

        Raises:
            ValueError: detections lack what the spread needs.
        """
        found = sample.pred_instances
        device = found.bboxes.device
        file_pixels = box_scale(sample, rescale) / network_pixels(sample, device)
        spread = relative_spread(found, self.spread, self.level, file_pixels)
        bounds = self.bounds.to(device)
        row = found.labels.long().clamp(max=len(bounds) - 1)
        reach = bounds[row, self.size_index(found.bboxes, file_pixels)][..., None] * spread
        # 0 x inf: nothing is known about a side whose spread is not finite.
        reach = torch.where(spread.isfinite(), reach, torch.inf)
        if "box_cov" not in found and "side_std" in found:
            found.box_cov = side_std_to_covariance(found.bboxes, found.side_std)
        sample.pred_instances = UncertainInstances.of(found)
        sample.pred_instances.interval_reach = reach

    def __call__(self, module: nn.Module, inputs: tuple, outputs: object) -> None:
        """Forward hook of a detector: adds intervals to its predictions, and to nothing else."""
        for sample in outputs if isinstance(outputs, (list, tuple)) else ():
            if isinstance(sample, DetDataSample) and "pred_instances" in sample:
                self.add_to(sample)

    def to_meta(self) -> dict:
        """Plain values, for the ``meta`` of a checkpoint."""
        return {**asdict(self), "bounds": self.bounds.tolist(), "edges": list(self.edges)}

    @classmethod
    def from_meta(cls, meta: Mapping) -> SideIntervals | None:
        """Those in the ``meta`` of a checkpoint, or None.

        Raises:
            ValueError: they are of another make than this version writes.
        """
        stored = meta.get(META_KEY)
        if stored is None:
            return None
        try:
            values = {**stored, "bounds": torch.tensor(stored["bounds"], dtype=torch.float32)}
            return cls(**{**values, "edges": tuple(stored["edges"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the checkpoint's {META_KEY} cannot be read ({error}); calibrate it again"
            ) from error


INTERVAL_KINDS: list[type] = [SideIntervals]
"""What a checkpoint may hold; ``ebm_mmdet3d`` adds the intervals of its boxes."""


def attach_intervals(
    model: nn.Module, intervals: Callable[..., None] | None, kind: type = SideIntervals
) -> None:
    """Let a detector give calibrated intervals from now on, or, with None, no longer.

    An ``EBMDetector`` gives them wherever it predicts with its own refiner; any other detector when
    it is called, as by ``test_step``.

    Args:
        model: a detector, or a wrapper of one in ``module``.
        intervals: of this model, of the type ``kind``, or None.
        kind: :class:`SideIntervals`, or that of 3D boxes.
    """
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    if hasattr(model, kind.attribute):
        setattr(model, kind.attribute, intervals)
        return
    for key in [k for k, hook in model._forward_hooks.items() if isinstance(hook, kind)]:
        del model._forward_hooks[key]
    if intervals is not None:
        model.register_forward_hook(intervals)
