"""An mmdet data set whose rooms are generated when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from mmdet.registry import DATASETS
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.dataset import Compose
from torch.utils.data import Dataset

from .image_files import room_path
from .missing import absent_modalities, check_shares
from .scenes import CLASSES, SCENE_TYPES, RoomOptions, RoomScene, render_room

__all__ = ["RoomScenesDataset"]


@DATASETS.register_module()
class RoomScenesDataset(Dataset):
    """Endless generated rooms: image `i` is a function of ``(seed, i)`` alone.

    With a large `num_images` a training run never sees a room twice. There is no counter, so the
    images do not depend on the number of workers, on the order of access or on the iteration at
    which a run was resumed.

    Args:
        num_images: Length of the set.
        seed: Number of the endless set, ``>= 0``. Sets with different seeds share no room.
        pipeline: mmdet transforms. Their input is already loaded: ``img`` (H, W, 3) uint8 BGR;
            ``gt_bboxes`` half-open xyxy pixels of the visible parts, ``gt_bboxes_labels``,
            ``gt_ignore_flags``, ``gt_masks``; ``gt_depth`` (H, W) float32 metres; ``gt_normals``
            (H, W, 3) float32, ``gt_normals_mask`` (H, W) bool; ``gt_scene`` int. What is missing
            has no key. ``instances`` is the list that a COCO metric without ``ann_file`` takes, and
            ``img_path`` can be read with `mmengine.fileio`.
        options: Attributes of `RoomOptions`.
        missing: Share of the images, in [0, 1], that lack ``depth``, ``normals`` or ``scene``.
            Which ones is a function of ``(seed, i)`` alone, too, and independent for each.
        cache: Keep the rendered rooms, some 130 kB each at 96 x 128, in the memory of the process
            (of each worker). For a set that is seen several times.

    Raises:
        ValueError: `num_images` is below one, or a share is not in [0, 1].
        KeyError: `missing` names something else.
        IndexError: An index is outside ``0 .. num_images - 1``.
    """

    METAINFO: ClassVar[dict] = {"classes": CLASSES, "scene_types": SCENE_TYPES}

    def __init__(
        self,
        num_images: int = 1_000_000,
        seed: int = 0,
        pipeline: Sequence = (),
        options: Mapping | None = None,
        missing: Mapping[str, float] | None = None,
        cache: bool = False,
    ) -> None:
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images}")
        self.missing = check_shares(missing)
        self.num_images, self.seed = num_images, seed
        self.options = RoomOptions.from_config(options)
        self.metainfo = dict(self.METAINFO)
        self.pipeline = Compose(list(pipeline))
        self._cache: dict[int, RoomScene] | None = {} if cache else None

    def full_init(self) -> None:
        """Do nothing; mmengine's runner calls it on every data set."""

    def __len__(self) -> int:
        return self.num_images

    def get_data_info(self, index: int) -> dict:
        """The parsed annotation, as in `BaseDetDataset`; the image is not rendered."""
        height, width = self.options.image_size
        return {"img_id": index, "sample_idx": index, "height": height, "width": width}

    def scene(self, index: int) -> RoomScene:
        """The room with number `index`, with everything that is known of it."""
        if not 0 <= index < self.num_images:
            raise IndexError(f"index {index} is outside 0 .. {self.num_images - 1}")
        index = int(index)
        if self._cache is None:
            return render_room(self.seed, index, self.options)
        if index not in self._cache:
            self._cache[index] = render_room(self.seed, index, self.options)
        return self._cache[index]

    def __getitem__(self, index: int) -> dict:
        scene = self.scene(index)
        shape = scene.image.shape[:2]
        results = {
            **self.get_data_info(int(index)),
            "img": scene.image.copy(),
            "img_path": room_path(self.seed, int(index), self.options),
            "img_shape": shape,
            "ori_shape": shape,
            "scale_factor": (1.0, 1.0),
            "gt_bboxes": HorizontalBoxes(scene.boxes.copy()),
            "gt_bboxes_labels": scene.labels.copy(),
            "gt_ignore_flags": scene.ignored.copy(),
            "gt_masks": BitmapMasks(scene.masks, *shape),
            "instances": [
                {"bbox": box, "bbox_label": label, "ignore_flag": int(ignored)}
                for box, label, ignored in zip(
                    scene.boxes.tolist(), scene.labels.tolist(), scene.ignored
                )
            ],
        }
        absent = absent_modalities(self.seed, int(index), self.missing)
        if "depth" not in absent:
            results["gt_depth"] = scene.depth.copy()
        if "normals" not in absent:
            results["gt_normals"] = scene.normals
            results["gt_normals_mask"] = np.ones(shape, bool)
        if "scene" not in absent:
            results["gt_scene"] = scene.scene_type
        return self.pipeline(results)
