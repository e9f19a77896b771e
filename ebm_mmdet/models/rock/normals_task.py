"""Surface normal of every cell of the map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import PixelData
from torch import Tensor

from .auxiliary_task import AuxiliaryTask, mean_of_existing
from .map_targets import crop_to_image, targets_of_cells

__all__ = ["NormalsTask"]


@MODELS.register_module()
class NormalsTask(AuxiliaryTask):
    """The x, y and z of a normal as the means of three equal groups of features, then unit length.

        loss = w mean [(1 - n · m) + |n - m|²],   n predicted, m true, both of length 1

    which is 3 w (1 - cos of the angle between them). The mean is over all cells of the batch whose
    normal is known. The truth is ``gt_normals = PixelData(normals=(3, H, W), mask=(1, H, W))``,
    unit vectors, x right, y up, z towards the viewer; it may be absent, and so may the mask, which
    says where the normal is known. Values that are not finite are unknown. The prediction is
    ``pred_normals = PixelData(normals=(3, h, w))``, at the map's resolution, without the padding.

    Args:
        in_channels: C of the encoding.
        feature_channels: number of features, a multiple of 3.
        loss_weight: w.
        extra_convs: see :class:`AuxiliaryTask`, as for the remaining arguments.
        norm_cfg: likewise.
        init_cfg: likewise.

    Raises:
        ValueError: the number of features is not a multiple of 3.
    """

    def __init__(
        self,
        in_channels: int,
        feature_channels: int = 384,
        loss_weight: float = 30.0,
        extra_convs: bool = True,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if feature_channels % 3:
            raise ValueError(
                f"feature_channels={feature_channels} cannot be split into three equal groups; "
                "use a multiple of 3"
            )
        super().__init__(
            in_channels, feature_channels, loss_weight, extra_convs, norm_cfg, init_cfg
        )

    def predict(self, features: Tensor) -> Tensor:
        """(B, K, h, w) -> vectors (B, 3, h, w) float32, of any length."""
        return features.float().unflatten(1, (3, -1)).mean(2)

    def loss(self, prediction: Tensor, samples: Sequence[DetDataSample]) -> Tensor:
        """The weighted mean over those cells whose normal is known."""
        size = tuple(prediction.shape[-2:])
        images, maps, inside = targets_of_cells(samples, "gt_normals", ["normals", "mask"], size)
        normals = _unit(prediction[images].float())
        if images:
            truth = torch.stack([each[0] for each in maps]).to(normals)
            known = torch.stack(inside) & truth.isfinite().all(1, keepdim=True)
            masks = [each[1].bool() if len(each) > 1 else known[i] for i, each in enumerate(maps)]
            known = known & torch.stack(masks)
        else:
            truth, known = normals.detach(), normals[:, :1] > torch.inf
        truth = truth.where(known, 0)
        cosine = (normals * truth).sum(1, keepdim=True)
        values = (1 - cosine) + (normals - truth).square().sum(1, keepdim=True)
        return self.loss_weight * mean_of_existing(values, known)

    def write(self, prediction: Tensor, samples: Sequence[DetDataSample]) -> None:
        """Write ``pred_normals``."""
        for sample, normals in zip(samples, _unit(prediction.float())):
            sample.pred_normals = PixelData(normals=crop_to_image(normals, sample))


def _unit(vectors: Tensor) -> Tensor:
    """Vectors (B, 3, h, w) at length 1; those shorter than 1e-4 stay shorter than 1.

    The gradient grows as 1 / length: the limit bounds it.
    """
    return F.normalize(vectors, dim=1, eps=1e-4)
