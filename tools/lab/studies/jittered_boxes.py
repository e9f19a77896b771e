"""Move true boxes at random, let an `EBM3DDetector` mend them, and measure by how much it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from torch import Tensor
from torch.utils.data import DataLoader

from ebm_mmdet3d.evaluation import box_iou_3d, box_iou_bev
from ebm_mmdet3d.models import EBM3DDetector

__all__ = ["JitteredBoxes", "refine_jittered_boxes"]


class JitteredBoxes(NamedTuple):
    """The true boxes of a frame, and n moved copies of each; (x, y, z, l, w, h, yaw) in LiDAR."""

    frame: str
    """The name of the frame."""
    truth: np.ndarray
    """(G, 7)."""
    before: np.ndarray
    """(G, n, 7) where the copies were put."""
    after: np.ndarray
    """(G, n, 7) where f took them."""

    def iou(self, boxes: np.ndarray, bev: bool = False) -> np.ndarray:
        """IoU (G, n) of ``before`` or ``after`` with the truth, in 3D or from above."""
        truth = np.broadcast_to(self.truth[:, None], boxes.shape)
        overlap = box_iou_bev if bev else box_iou_3d
        flat = overlap(boxes.reshape(-1, 7), truth.reshape(-1, 7), aligned=True)
        return flat.reshape(boxes.shape[:2])


def refine_jittered_boxes(
    model: EBM3DDetector, loader: DataLoader, num_copies: int = 100, seed: int = 0
) -> Iterator[JitteredBoxes]:
    """Refine true boxes that were moved by draws from the noise distribution of the training.

    The detector lends its features only; what it detects plays no part.

    Args:
        model: in eval mode, with a refiner, and with an objective that has a noise distribution.
        loader: frames with ``eval_ann_info``, as a `KittiDataset` in test mode gives them.
        num_copies: moved copies per box, n.
        seed: of the draws.

    Yields:
        One entry per frame that has objects of the model's classes in the range of its map.

    Raises:
        ValueError: the model has no refiner, or its objective has no noise; fewer than one copy.
    """
    noise = getattr(model.energy_head.objective, "noise", None)
    if model.refiner is None or noise is None:
        raise ValueError(
            f"the model has refiner={model.refiner} and noise={noise}; needed are a refiner, and "
            "an objective with a noise distribution (NCEObjective), which says how far to move"
        )
    if num_copies < 1:
        raise ValueError(f"num_copies must be at least 1, got {num_copies}")
    generator = torch.Generator().manual_seed(seed)
    for batch in loader:
        with torch.inference_mode():
            data = model.data_preprocessor(batch, False)
            samples = data["data_samples"]
            truths = []
            for sample in samples:
                truth, labels = _objects_in_range(model, sample)
                moves, _ = noise.sample(len(truth), num_copies, generator)
                moved = truth[:, None] + moves.to(truth)
                moved[..., 3:6] = moved[..., 3:6].clamp(min=model.energy_head.min_box_size)
                sample.pred_instances_3d = InstanceData(
                    bboxes_3d=LiDARInstance3DBoxes(moved.flatten(0, 1)),
                    scores_3d=truth.new_ones(len(truth) * num_copies),
                    labels_3d=labels.repeat_interleave(num_copies),
                )
                truths.append((truth, moved))
            feats = model.prepare(model.extract_maps(data["inputs"], samples), samples)
            model.refine(feats, samples)
        for sample, (truth, moved) in zip(samples, truths):
            if len(truth):
                mended = sample.pred_instances_3d.bboxes_3d.tensor.reshape(moved.shape)
                name = Path(sample.metainfo["lidar_path"]).stem
                yield JitteredBoxes(name, *(x.double().numpy() for x in (truth, moved, mended)))


def _objects_in_range(model: EBM3DDetector, sample) -> tuple[Tensor, Tensor]:
    truth = sample.eval_ann_info
    boxes = truth["gt_bboxes_3d"].tensor[:, :7].float()
    labels = torch.as_tensor(truth["gt_labels_3d"])
    extent = torch.as_tensor(model.data_preprocessor.voxel_layer.point_cloud_range).to(boxes)
    inside = ((boxes[:, :2] > extent[:2]) & (boxes[:, :2] < extent[3:5])).all(1)
    keep = inside & (labels >= 0) & model.energy_head.is_trainable_box(boxes)
    return boxes[keep], labels[keep].long()
