"""Per-pixel truth at the cells of a feature map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

__all__ = ["crop_to_image", "targets_of_cells"]


def targets_of_cells(
    samples: Sequence[DetDataSample], field: str, keys: Sequence[str], size: tuple[int, int]
) -> tuple[list[int], list[tuple[Tensor, ...]], list[Tensor]]:
    """Truth of those images that have it, at the centres of a map's cells.

    A map covers the network's input, padding included, and a target covers the image. If both have
    the same size and nothing is padded, the target is used as it is. Otherwise each cell takes the
    target's pixel that its centre lies in (nearest neighbour), and cells in the padding have none.

    Args:
        samples: the B data samples; ``img_shape`` and ``batch_input_shape`` say what is padded.
        field: name of their ``PixelData``, which may be absent.
        keys: names in it, each of a map (c, H, W); a name that is absent is left out.
        size: (h, w) of the map.

    Returns:
        Indices of the images that have the field; for each of them its maps (c, h, w); and for each
        of them a bool (1, h, w), True inside the image.
    """
    indices, maps, inside = [], [], []
    for i, sample in enumerate(samples):
        if field not in sample:
            continue
        data = sample.get(field)
        given = [data.get(key) for key in keys if key in data]
        share = _share_of_image(sample)
        shape, device = tuple(given[0].shape[-2:]), given[0].device
        if share == (1.0, 1.0) and shape == tuple(size):
            valid = torch.ones(1, *size, dtype=torch.bool, device=device)
        else:
            (rows, in_y), (columns, in_x) = (
                _nearest(cells, pixels, part, device)
                for cells, pixels, part in zip(size, shape, share)
            )
            given = [each[:, rows[:, None], columns] for each in given]
            valid = (in_y[:, None] & in_x)[None]
        indices.append(i)
        maps.append(tuple(given))
        inside.append(valid)
    return indices, maps, inside


def crop_to_image(prediction: Tensor, sample: DetDataSample) -> Tensor:
    """Cut off the cells of a map (c, h, w) whose centres lie in the padding; one cell at least."""
    rows, columns = (
        max(1, math.ceil(cells * part - 0.5))
        for cells, part in zip(prediction.shape[-2:], _share_of_image(sample))
    )
    return prediction[..., :rows, :columns]


def _share_of_image(sample: DetDataSample) -> tuple[float, float]:
    """The share of the network's input that the image covers, in height and width."""
    info = sample.metainfo
    image = info.get("img_shape")
    whole = info.get("batch_input_shape", image)
    if image is None:
        return 1.0, 1.0
    return min(1.0, image[0] / whole[0]), min(1.0, image[1] / whole[1])


def _nearest(cells: int, pixels: int, share: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """For the cells of an axis: the target's pixel of each, and whether it is inside the image."""
    centres = (torch.arange(cells, device=device) + 0.5) / (cells * share)
    return (centres * pixels).long().clamp(max=pixels - 1), centres < 1
