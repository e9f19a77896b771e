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
    A target that was made with a stride says so in its metainfo (``AuxiliaryTargets``): its pixels
    are ``stride`` pixels of the image wide, so that the last ones may reach into the padding.

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
        shape, device = tuple(given[0].shape[-2:]), given[0].device
        known = _shapes(sample)
        image, whole = known or (shape, shape)
        stride = data.metainfo.get("stride") if known else None
        if image == whole and shape == tuple(size):
            valid = torch.ones(1, *size, dtype=torch.bool, device=device)
        else:
            (rows, in_y), (columns, in_x) = (
                _nearest(*axis, stride, device) for axis in zip(size, shape, image, whole)
            )
            given = [each[:, rows[:, None], columns] for each in given]
            valid = (in_y[:, None] & in_x)[None]
        indices.append(i)
        maps.append(tuple(given))
        inside.append(valid)
    return indices, maps, inside


def crop_to_image(prediction: Tensor, sample: DetDataSample) -> Tensor:
    """Cut off the cells of a map (c, h, w) whose centres lie in the padding; one cell at least."""
    image, whole = _shapes(sample) or ((1, 1), (1, 1))
    rows, columns = (
        max(1, math.ceil(cells * part / full - 0.5))
        for cells, part, full in zip(prediction.shape[-2:], image, whole)
    )
    return prediction[..., :rows, :columns]


def _shapes(sample: DetDataSample) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Heights and widths of the image and of the network's input; None if they are unknown."""
    image = sample.metainfo.get("img_shape")
    if image is None:
        return None
    whole = sample.metainfo.get("batch_input_shape", image)
    image, whole = tuple(map(int, image[:2])), tuple(map(int, whole[:2]))
    return image, (max(image[0], whole[0]), max(image[1], whole[1]))


def _nearest(
    cells: int, pixels: int, image: int, whole: int, stride: int | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For the cells of an axis: the target's pixel of each, and whether it is inside the image.

        pixel j = floor((j + 1/2) whole / cells / width),   width = stride or image / pixels

    Args:
        cells: number of the map's cells, which cover the network's input.
        pixels: number of the target's pixels.
        image: length of the image.
        whole: length of the network's input, in the same pixels.
        stride: of a target that was made with one, else None.
        device: where the result is to be.
    """
    twice = 2 * torch.arange(cells, device=device) + 1
    # In integers, because centres of cells often lie exactly between two pixels.
    if stride:
        index = twice * whole // (2 * cells * stride)
    else:
        index = twice * whole * pixels // (2 * cells * image)
    inside = (twice * whole < 2 * cells * image) & (index < pixels)
    return index.clamp(max=pixels - 1), inside
