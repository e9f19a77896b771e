"""Targets of the auxiliary tasks, packed with the boxes."""

from __future__ import annotations

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs
from mmdet.registry import TRANSFORMS
from mmengine.structures import LabelData, PixelData

from .covered_image import note_maps, refuse_another_image
from .maps import apply_to_maps, nearest

__all__ = ["AuxiliaryTargets", "PackMultiTaskInputs"]


@TRANSFORMS.register_module()
class AuxiliaryTargets(BaseTransform):
    """Resize depth, normals and mask to the size of the map that predicts them.

    Args:
        stride: Pixels of the image per cell of the map. The result has ``ceil(H / stride)`` rows
            and ``ceil(W / stride)`` columns; cell i takes the pixel ``i * stride + stride // 2``,
            or the last one, so that it agrees with an image that is padded to a multiple of
            the stride. ``map_stride`` keeps the stride, because the last cells may reach beyond
            the image.
        size: Instead of a stride, the number of rows and columns; each cell takes the pixel at
            its centre.

    Raises:
        ValueError: Both or none of the two are given, or they are not positive.
    """

    def __init__(self, stride: int | None = None, size: tuple[int, int] | None = None) -> None:
        if (stride is None) == (size is None):
            raise ValueError(
                f"expected either stride or size=(rows, columns), got stride={stride}, size={size}"
            )
        if min(size if stride is None else (stride,)) < 1:
            raise ValueError(f"stride={stride}, size={size}: must be at least 1")
        self.stride = stride
        self.size = None if size is None else (int(size[0]), int(size[1]))

    def transform(self, results: dict) -> dict:
        """Replace the maps that are present by smaller ones."""
        note_maps(results)
        apply_to_maps(results, self._resize)
        if self.stride is None:
            results.pop("map_stride", None)
        else:
            results["map_stride"] = results.get("map_stride", 1) * self.stride
        return results

    def _resize(self, values: np.ndarray) -> np.ndarray:
        if self.size is not None:
            return nearest(values, self.size)
        rows, columns = (
            np.minimum(np.arange(0, side, self.stride) + self.stride // 2, side - 1)
            for side in values.shape[:2]
        )
        return values[rows][:, columns]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(stride={self.stride}, size={self.size})"


@TRANSFORMS.register_module()
class PackMultiTaskInputs(PackDetInputs):
    """mmdet's ``PackDetInputs``, with the targets of the auxiliary tasks.

    Added to the ``DetDataSample``, each only if the image has it:

    - ``gt_depth``: ``PixelData`` with ``depth`` ``(1, h, w)`` float32 in metres; a value that is
      not positive or not finite is unknown;
    - ``gt_normals``: ``PixelData`` with ``normals`` ``(3, h, w)`` float32 unit vectors and ``mask``
      ``(1, h, w)`` bool, true where they are valid. Normals that are zero or not finite are not
      valid, whatever ``gt_normals_mask`` says, and become zero;
    - ``gt_scene``: ``LabelData`` with ``label`` ``(1,)`` int64.

    The metainfo of the first two has ``stride``, pixels of the image per cell, if they were made
    with one (`AuxiliaryTargets`): they then cover ``h * stride`` rows, which may be more than the
    image has.

    Arguments are those of ``PackDetInputs``.

    Raises:
        ValueError: The image was mirrored, cropped, padded or turned by a transform that leaves its
            maps as they are, such as mmdet's ``RandomFlip``, or they never had its size and
            `AuxiliaryTargets` has not made them (`refuse_another_image`).
    """

    def transform(self, results: dict) -> dict:
        """Pack the image into ``inputs``, everything else into ``data_samples``."""
        refuse_another_image(results, type(self).__name__, padded=True)
        packed = super().transform(results)
        sample = packed["data_samples"]
        stride = results.get("map_stride")
        made_with = {} if stride is None else {"stride": stride}
        if results.get("gt_depth") is not None:
            depth = np.ascontiguousarray(results["gt_depth"], np.float32)
            sample.gt_depth = PixelData(depth=torch.from_numpy(depth)[None], metainfo=made_with)
        if results.get("gt_normals") is not None:
            sample.gt_normals = self._pack_normals(
                results["gt_normals"], results.get("gt_normals_mask")
            )
            sample.gt_normals.set_metainfo(made_with)
        if results.get("gt_scene") is not None:
            label = torch.tensor([int(results["gt_scene"])], dtype=torch.int64)
            sample.gt_scene = LabelData(label=label)
        return packed

    @staticmethod
    def _pack_normals(normals: np.ndarray, mask: np.ndarray | None) -> PixelData:
        normals = np.asarray(normals, np.float32)
        valid = np.isfinite(normals).all(-1) & (normals != 0).any(-1)
        normals = np.where(valid[..., None], normals, np.float32(0))
        if mask is not None:
            valid &= np.asarray(mask, bool)
        return PixelData(
            normals=torch.from_numpy(np.ascontiguousarray(normals.transpose(2, 0, 1))),
            mask=torch.from_numpy(valid)[None],
        )
