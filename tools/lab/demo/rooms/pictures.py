"""Pictures of rooms: boxes, depth and normals, true above and predicted below."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.registry import DATASETS, VISUALIZERS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from ebm_mmdet.apis.trained_detector import load_detector

__all__ = ["draw_rooms"]

ENLARGED = 4
"""A room of 96 x 128 pixels is too small for the names of its objects."""


def draw_rooms(cfg: Config, folder: Path, pictures: Path, count: int) -> list[Path]:
    """Draw the first rooms of the validation set, with the predictions of a trained model.

    Args:
        cfg: config of the model.
        folder: of its training, with the last checkpoint.
        pictures: folder for the pictures.
        count: number of rooms.

    Returns:
        The files ``room_1.png``, ...
    """
    model = load_detector(cfg, folder / f"iter_{cfg.train_cfg.max_iters}.pth")
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    name = str(pictures.resolve()).replace("/", "_")
    visualizer = VISUALIZERS.build(dict(type="MultiTaskVisualizer", name=name, line_width=2))
    visualizer.dataset_meta = dataset.metainfo
    paths = []
    for index in range(min(count, len(dataset))):
        item = dataset[index]
        with torch.inference_mode():
            (sample,) = model.test_step(pseudo_collate([item]))
        image = np.ascontiguousarray(item["inputs"].numpy().transpose(1, 2, 0)[..., ::-1])
        for instances in (sample.gt_instances, sample.pred_instances):
            boxes = instances.pop("bboxes")
            instances.pop("masks", None)  # of the small image
            instances.bboxes = getattr(boxes, "tensor", boxes) * ENLARGED
        size = (image.shape[1] * ENLARGED, image.shape[0] * ENLARGED)
        path = pictures / f"room_{index + 1}.png"
        visualizer.add_datasample(
            path.stem,
            cv2.resize(image, size, interpolation=cv2.INTER_CUBIC),
            sample,
            out_file=str(path),
            pred_score_thr=0.4,
        )
        paths.append(path)
    return paths
