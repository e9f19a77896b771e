"""The mean of f over an image and its mirror images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..energy.host_reads import constant
from .heads import BoxLogDensity, EBMBBoxHead, RegressingBoxLogDensity

__all__ = ["FLIPS", "FlipMean", "MapsOfViews", "check_flips", "mirror", "mirror_boxes"]

FLIPS = ("horizontal", "vertical", "diagonal")
"""Names of mmdet's ``RandomFlip``; ``''`` stands for the image as it is."""


def check_flips(flips: Sequence[str], head: nn.Module) -> tuple[str, ...]:
    """Return the names of mirror images.

    Args:
        flips: out of ``FLIPS``.
        head: the energy head.

    Raises:
        ValueError: a name is unknown or given twice, or f of this head has no mean.
    """
    names = (flips,) if isinstance(flips, str) else tuple(flips)
    if not set(names) <= set(FLIPS) or len(set(names)) < len(names):
        raise ValueError(f"flips={flips!r}; use some of {', '.join(FLIPS)}, each once")
    if names and not _averages(head):
        raise ValueError(
            f"flips={flips!r} with a {type(head).__name__}; the mean over mirror images is that of "
            "an EBMBBoxHead's f"
        )
    return names


def _averages(head: nn.Module) -> bool:
    """Whether a mean of f is all that there is: a learned proposal, for one, has no mean."""
    kinds = (BoxLogDensity, RegressingBoxLogDensity)
    return isinstance(head, EBMBBoxHead) and head.log_density_type in kinds


def _sides_change(flip: str) -> tuple[bool, bool]:
    """Whether left and right change places, and whether top and bottom do."""
    return flip in ("horizontal", "diagonal"), flip in ("vertical", "diagonal")


def mirror(image: Tensor, flip: str) -> Tensor:
    """(..., H, W) -> the same, mirrored: ``mirror(mirror(x, flip), flip) == x``."""
    across, down = _sides_change(flip)
    axes = [-1] * across + [-2] * down
    return image.flip(axes) if axes else image


def mirror_boxes(boxes: Tensor, flip: str, input_shape: Sequence[int]) -> Tensor:
    """(..., 4) ``(x1, y1, x2, y2)`` of an image -> of its mirror image.

    Args:
        boxes: in pixels of the image.
        flip: ``''`` or one of ``FLIPS``.
        input_shape: (height, width) of the image.
    """
    height, width = input_shape
    x1, y1, x2, y2 = boxes.unbind(-1)
    across, down = _sides_change(flip)
    if across:
        x1, x2 = width - x2, width - x1
    if down:
        y1, y2 = height - y2, height - y1
    return torch.stack([x1, y1, x2, y2], -1)


class MapsOfViews(list):
    """What :meth:`FlipMean.prepare` returns: the maps of all views and the ``head`` for them."""

    def __init__(self, maps: Iterable[Tensor], head: FlipMean) -> None:
        super().__init__(maps)
        self.head = head


class FlipMean(nn.Module):
    r"""An energy head whose f is the mean over an image and its mirror images.

    ``f̄(x, y) = 1/V Σ_v f(x_v, y_v)``, with image and box mirrored alike: the errors of f differ
    from view to view, and the object does not. It takes the place of the head wherever f is asked
    for; a regression is the mean of those of the views.

    Args:
        head: the head; it is shared, not copied.
        flips: the views, ``''`` among them.
        input_shape: (height, width) of the network's input.
    """

    def __init__(self, head: EBMBBoxHead, flips: Sequence[str], input_shape: Sequence[int]) -> None:
        super().__init__()
        self.head, self.flips, self.input_shape = head, tuple(flips), tuple(input_shape)

    @property
    def objective(self) -> nn.Module:
        """That of the head."""
        return self.head.objective

    @property
    def regression(self) -> nn.Module:
        """That of the head, if it has one."""
        return self.head.regression

    def prepare(self, views: Sequence[Sequence[Tensor]]) -> MapsOfViews:
        """What ``head.prepare`` makes of the maps of each view, one view after the other."""
        shape = self.input_shape
        maps = (feat for maps in views for feat in self.head.prepare(maps, input_shape=shape))
        return MapsOfViews(maps, self)

    def decode(self, offsets: Tensor, reference: Tensor) -> Tensor:
        """That of the head."""
        return self.head.decode(offsets, reference)

    def evaluate(
        self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor, labels: Tensor
    ) -> Tensor:
        """f̄ (N, S) of boxes (N, S, 4) of the image as it is; see ``EnergyHead.evaluate``."""
        views = self.views(feats, boxes)
        return _mean([self.head.evaluate(*view, batch_index, labels) for view, _ in views])

    def regress(
        self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f̄ (N, S), and mean offsets (N, S, 4) to the object; see ``RegressingHead.regress``."""
        found = [
            (self.head.regress(*view, batch_index, labels), sign)
            for view, sign in self.views(feats, boxes)
        ]
        return _mean([f for (f, _), _ in found]), _mean([d * sign for (_, d), sign in found])

    def views(
        self, feats: Sequence[Tensor], boxes: Tensor
    ) -> list[tuple[tuple[Sequence[Tensor], Tensor], Tensor]]:
        """Of each view ``(maps, mirrored boxes (..., 4))``, and signs (4,) of mirrored offsets."""
        count, views = len(feats) // len(self.flips), []
        for position, flip in enumerate(self.flips):
            maps = feats[position * count :][:count]
            across, down = _sides_change(flip)
            sign = constant([(-1.0) ** across, (-1.0) ** down, 1.0, 1.0], boxes.device)
            views.append(((maps, mirror_boxes(boxes, flip, self.input_shape)), sign))
        return views

    def log_density_fn(
        self, feats: Sequence[Tensor], reference: Tensor, batch_index: Tensor, labels: Tensor
    ) -> BoxLogDensity:
        """f̄ of offsets from reference boxes; see ``EnergyHead.log_density_fn``."""
        self.head.check_targets(feats, batch_index, labels)
        kind = self.head.log_density_type
        return kind.recordable(self, feats, reference, batch_index, labels)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return sum(values[1:], values[0]) / len(values)
