"""The last transform: from a dictionary to the input of an `ImageRegressor`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from ..data_sample import RegressionDataSample

__all__ = ["PackRegressionInputs"]


@TRANSFORMS.register_module()
class PackRegressionInputs(BaseTransform):
    """Pack an image and its target.

    Required: ``img`` (H, W, 3) uint8, or float32 in 0 .. 255. Optional: ``gt_target`` (D,), raw
    units; an image without it is unlabelled.

    Returns ``inputs`` (3, H, W) of the same type and ``data_samples``, a `RegressionDataSample`
    with ``gt_target`` (D,) float32 and those of `meta_keys` that are there. A grey image (H, W)
    or (H, W, 1) becomes three equal channels.

    Args:
        meta_keys: keys of the results that become metainfo of the data sample.

    Raises:
        ValueError: the image is not (H, W), (H, W, 1) or (H, W, 3), or of another type, a target
            is not finite, or the image was mirrored without its target, which mirroring changes
            (``flip_signs`` of -1).
    """

    def __init__(
        self,
        meta_keys: Sequence[str] = (
            "img_path",
            "sample_idx",
            "ori_shape",
            "img_shape",
            "flip",
            "group",
            "oracle_log_prob",
            "oracle_weights",
            "oracle_means",
            "oracle_stds",
        ),
    ) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        """Pack; see the class."""
        image = np.asarray(results["img"])
        source = results.get("img_path", "an image")
        if image.ndim == 2:
            image = image[..., None]
        if image.ndim != 3 or image.shape[2] not in (1, 3):
            raise ValueError(
                f"{source}: expected an image (H, W), (H, W, 1) or (H, W, 3), got {image.shape}"
            )
        if image.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"{source}: the image holds {image.dtype} values; expected uint8, as "
                "LoadRegressionImage gives, or float32 in 0 .. 255"
            )
        if image.shape[2] == 1:
            image = np.repeat(image, 3, axis=2)
        inputs = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        sample = RegressionDataSample()
        sample.set_metainfo({key: results[key] for key in self.meta_keys if key in results})
        if results.get("gt_target") is not None:
            target = np.array(results["gt_target"], np.float32).reshape(-1)
            if not np.isfinite(target).all():
                raise ValueError(f"{source}: the target {target.tolist()} is not finite")
            if _mirrored_alone(results):
                raise ValueError(
                    f"{source} was mirrored, and its target {target.tolist()} was not, which "
                    f"changes with it (flip_signs={tuple(results['flip_signs'])}); use "
                    "RandomFlipTarget instead of RandomFlip, horizontally alone"
                )
            sample.gt_target = torch.from_numpy(target)
        return {"inputs": inputs, "data_samples": sample}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(meta_keys={self.meta_keys})"


def _mirrored_alone(results: dict) -> bool:
    """Whether something other than `RandomFlipTarget` has mirrored an image whose target changes.

    mmdet's ``RandomFlip`` overwrites ``flip``, so its ``homography_matrix``, which accumulates,
    counts too.
    """
    signs = results.get("flip_signs")
    if signs is None or all(sign == 1 for sign in signs):
        return False
    matrix = results.get("homography_matrix")
    if matrix is not None and (np.diagonal(matrix)[:2] < 0).any():
        return True
    if results.get("flip_direction"):
        return True
    return bool(results.get("flip")) and not results.get("target_flip")
