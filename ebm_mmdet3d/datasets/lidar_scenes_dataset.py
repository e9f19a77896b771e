"""An mmdet3d data set whose scenes are generated when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from mmdet3d.registry import DATASETS
from mmdet3d.structures import LiDARInstance3DBoxes, LiDARPoints, get_box_type
from mmengine.dataset import Compose
from torch.utils.data import Dataset

from .kitti_geometry import SYNTHETIC_CAMERA, in_image, points_in_boxes
from .lidar_scenes import CLASSES, SceneOptions, render_scene

__all__ = ["LidarScenesDataset"]


@DATASETS.register_module()
class LidarScenesDataset(Dataset):
    """Endless generated scenes: scene `i` is a function of ``(seed, i)`` alone.

    Its items are those that ``KittiDataset`` gives for the same scenes after they were written to a
    folder and prepared (``tools/dataset_converters``): the points inside the image, and the
    vehicles. There is no counter, so the scenes do not depend on the number of workers or on the
    iteration at which a run was resumed.

    Args:
        num_scenes: Length of the set.
        seed: Number of the endless set, ``>= 0``. Must differ from the seed of a written set, or a
            detector is trained on what it is tested on; ``create_kitti_infos.py`` writes set 0 by
            default.
        pipeline: mmdet3d transforms; their input is already loaded (``points``,
            ``gt_bboxes_3d``, ``gt_labels_3d`` int64 into ``Car``, ``Van``).
        scene: Attributes of `SceneOptions`, with a dictionary for ``lidar``.
        min_points: Vehicles with fewer points in their box are not annotated, because nothing can
            be learned from them.

    Raises:
        ValueError: `num_scenes` is below one.
        IndexError: An index is outside ``0 .. num_scenes - 1``.
    """

    METAINFO: ClassVar[dict] = {"classes": CLASSES}

    def __init__(
        self,
        num_scenes: int = 1_000_000,
        seed: int = 1,
        pipeline: Sequence = (),
        scene: dict | None = None,
        min_points: int = 1,
    ) -> None:
        if num_scenes < 1:
            raise ValueError(f"num_scenes must be at least 1, got {num_scenes}")
        self.num_scenes, self.seed, self.min_points = num_scenes, seed, min_points
        self.options = SceneOptions.from_config(scene)
        self.metainfo = {**self.METAINFO, "box_type_3d": "LiDAR"}
        self.pipeline = Compose(list(pipeline))

    def full_init(self) -> None:
        """Do nothing; mmengine's runner calls it on every data set."""

    def __len__(self) -> int:
        return self.num_scenes

    def get_data_info(self, index: int) -> dict:
        """What is known of a scene before it is rendered: its name, and no annotation."""
        return {"sample_idx": int(index), "lidar_path": f"scenes://{self.seed}/{index}"}

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.num_scenes:
            raise IndexError(f"index {index} is outside 0 .. {self.num_scenes - 1}")
        scene = render_scene(self.seed, int(index), self.options)
        points = scene.points[in_image(scene.points, SYNTHETIC_CAMERA)]
        keep = points_in_boxes(points, scene.boxes).sum(0) >= self.min_points
        box_type, box_mode = get_box_type("LiDAR")
        results = {
            **self.get_data_info(index),
            "num_pts_feats": 4,
            "box_type_3d": box_type,
            "box_mode_3d": box_mode,
            "points": LiDARPoints(torch.from_numpy(points), points_dim=4),
            "gt_bboxes_3d": LiDARInstance3DBoxes(torch.from_numpy(scene.boxes[keep]).float()),
            "gt_labels_3d": scene.labels[keep],
        }
        return self.pipeline(results)
