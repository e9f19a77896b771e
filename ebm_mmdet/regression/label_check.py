"""Labels that no density over the declared ranges can explain are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .target_codec import TargetCodec

__all__ = ["check_extremes", "check_labels"]


def check_labels(codec: TargetCodec, targets: Tensor, names: Sequence[str] | None = None) -> None:
    """Refuse labels that are not finite or outside of the ranges of a codec.

    Args:
        codec: has D ranges.
        targets: (N, D) labels in their units, any real dtype.
        names: names of the N images, for the message.

    Raises:
        ValueError: the shape is wrong, or a label is not finite or outside its range; angles may
            have any value.
    """
    sound = _sound(codec, targets)
    if sound.all():
        return
    wrong = (~sound).any(1)
    index = int(wrong.nonzero()[0])
    name = f" of {names[index]}" if names is not None else f" number {index}"
    raise ValueError(
        f"the label{name} is {targets[index].tolist()}, and {int(wrong.sum())} of {len(targets)} "
        f"labels are outside the declared ranges {_declared(codec)} or not finite. Widen `ranges` "
        "(codec and metainfo), or remove these images."
    )


def check_extremes(codec: TargetCodec, statistics: Mapping, source: str) -> None:
    """Refuse a data set whose least or greatest label is not finite or outside of the ranges.

    Args:
        codec: has D ranges.
        statistics: ``min`` and ``max``, D numbers each in the units of the labels, NaN if any label
            is NaN; without them nothing is checked.
        source: what the labels belong to, for the message.

    Raises:
        ValueError: there are not D numbers, or a label is not finite or outside its range.
    """
    if "min" not in statistics or "max" not in statistics:
        return
    extremes = torch.tensor([statistics["min"], statistics["max"]], dtype=torch.float64)
    if not _sound(codec, extremes.to(codec.mean.device)).all():
        raise ValueError(
            f"the labels of {source} lie between {statistics['min']} and {statistics['max']}, and "
            f"the codec's ranges are {_declared(codec)}: labels outside of them or not finite have "
            "no density. Widen `ranges` (codec and metainfo), or remove these images."
        )


def _sound(codec: TargetCodec, targets: Tensor) -> Tensor:
    """Whether labels are finite and inside their range, (N, D) bool."""
    if targets.dim() != 2 or targets.shape[1] != codec.dim:
        raise ValueError(
            f"labels have shape {tuple(targets.shape)}; expected (N, {codec.dim}), one number for "
            "each of the declared ranges."
        )
    low, high = codec.label_ranges.unbind(1)
    values = targets.to(low)
    return ((values >= low) & (values <= high)) | (codec.periodic_mask & values.isfinite())


def _declared(codec: TargetCodec) -> list[tuple[float, float]]:
    return [(low, high) for low, high in codec.label_ranges.tolist()]
