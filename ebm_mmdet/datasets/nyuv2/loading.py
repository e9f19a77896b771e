"""Loading of the maps beside an image."""

from __future__ import annotations

import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from .maps import decode_depth, decode_mask, decode_normals

__all__ = ["LoadAuxiliaryMaps"]


@TRANSFORMS.register_module()
class LoadAuxiliaryMaps(BaseTransform):
    """Load the depth and the normals of an image, as far as it has them.

    Keys that are read, each of which may be missing: ``depth_path``, ``normals_path``,
    ``normals_mask_path``. Keys that are added for those that are present: ``gt_depth``,
    ``gt_normals`` and ``gt_normals_mask``, as in :mod:`ebm_mmdet.datasets.nyuv2.maps`. Normals
    without a file of their mask are valid except where they are grey.

    Place it after ``LoadImageFromFile``, with whose image the sizes are compared.

    Args:
        with_depth: Load the depth.
        with_normals: Load the normals and their mask.
        backend_args: Of mmengine's file backend.

    Raises:
        ValueError: A file is not readable as a map, or its size is not that of the image.
        FileNotFoundError: An annotation names a file that does not exist.
    """

    def __init__(
        self,
        with_depth: bool = True,
        with_normals: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        self.with_depth = with_depth
        self.with_normals = with_normals
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Add the maps to the results of an image."""
        if self.with_depth and results.get("depth_path"):
            results["gt_depth"] = self._load(results, "depth_path", decode_depth)
        if self.with_normals and results.get("normals_path"):
            normals = self._load(results, "normals_path", decode_normals)
            if results.get("normals_mask_path"):
                mask = self._load(results, "normals_mask_path", decode_mask)
            else:
                mask = (normals != 0).any(-1)
            results["gt_normals"] = normals
            results["gt_normals_mask"] = mask
        return results

    def _load(self, results: dict, key: str, decode) -> np.ndarray:
        path = str(results[key])
        values = decode(fileio.get(path, backend_args=self.backend_args), path)
        image = results.get("img")
        if image is not None and values.shape[:2] != image.shape[:2]:
            raise ValueError(
                f"{path} is {values.shape[1]} x {values.shape[0]} pixels; expected the size of its "
                f"image {results.get('img_path')}, {image.shape[1]} x {image.shape[0]}"
            )
        return values

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(with_depth={self.with_depth}, "
            f"with_normals={self.with_normals}, backend_args={self.backend_args})"
        )
