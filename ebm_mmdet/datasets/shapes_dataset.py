"""An mmdet data set whose images are generated when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from mmdet.registry import DATASETS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.dataset import Compose
from torch.utils.data import Dataset

from .shapes import (
    CLASSES,
    HANDLE_LENGTH,
    check_conventions,
    render_conventions,
    render_shapes,
)


@DATASETS.register_module()
class ShapesDataset(Dataset):
    """Endless generated shapes: image `i` is a function of ``(seed, i)`` alone.

    With a large `num_images` a training run never sees an image twice. Because no counter is
    involved, the images do not depend on the number of workers, on the order of access or on
    where a run was resumed.

    Args:
        num_images: Length of the set.
        seed: Number of the endless set, ``>= 0``. It must differ from the seed of a set written by
            `write_coco`, because the first images would be the same.
        pipeline: mmdet transforms; they receive an image that is already loaded (``img`` HWC uint8
            BGR, ``gt_bboxes`` half-open xyxy pixels, ``gt_bboxes_labels``, ``gt_ignore_flags``).
        image_size: ``(height, width)`` in pixels.
        num_shapes: Smallest and largest intended number of shapes.
        extent: Smallest and largest length of a shape's longer axis, in pixels.
        conventions: With 2, every shape has a handle, and a fair coin tells whether its annotated
            box includes it (`render_conventions`). Pipelines then also receive ``conventions``,
            both boxes ``(n, 2, 4)`` xyxy without and with the handle, and ``convention`` ``(n,)``,
            which of them is annotated; flips and resizes do not change these two.
        handle_length: Smallest and largest length of a handle outside the body, relative to the
            body's side along it; read with two conventions.

    Raises:
        ValueError: `num_images` is below one, or there are neither one nor two conventions.
        IndexError: An index is outside ``0 .. num_images - 1``.
    """

    METAINFO: ClassVar[dict] = {"classes": CLASSES}

    def __init__(
        self,
        num_images: int = 1_000_000,
        seed: int = 0,
        pipeline: Sequence = (),
        image_size: tuple[int, int] = (160, 160),
        num_shapes: tuple[int, int] = (3, 7),
        extent: tuple[float, float] = (24.0, 80.0),
        conventions: int = 1,
        handle_length: tuple[float, float] = HANDLE_LENGTH,
    ) -> None:
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images}")
        check_conventions(conventions)
        self.num_images = num_images
        self.seed = seed
        self.render_options = {
            "image_size": tuple(image_size),
            "num_shapes": tuple(num_shapes),
            "extent": tuple(extent),
        }
        self.conventions = conventions
        if conventions == 2:
            self.render_options["handle_length"] = tuple(handle_length)
        self.metainfo = dict(self.METAINFO)
        self.pipeline = Compose(list(pipeline))

    def full_init(self) -> None:
        """Do nothing; mmengine's runner calls it on every data set."""

    def __len__(self) -> int:
        return self.num_images

    def get_data_info(self, index: int) -> dict:
        """Return the parsed annotation, as in `BaseDetDataset`; the image is not rendered."""
        height, width = self.render_options["image_size"]
        return {"img_id": index, "sample_idx": index, "height": height, "width": width}

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.num_images:
            raise IndexError(f"index {index} is outside 0 .. {self.num_images - 1}")
        extra = {}
        if self.conventions == 2:
            image, ways, chosen, labels = render_conventions(
                self.seed, int(index), **self.render_options
            )
            boxes = ways[np.arange(len(ways)), chosen]
            extra = {"conventions": ways, "convention": chosen}
        else:
            image, boxes, labels = render_shapes(self.seed, int(index), **self.render_options)
        shape = image.shape[:2]
        results = {
            **self.get_data_info(int(index)),
            "img": image,
            "img_path": f"shapes://{self.seed}/{index}",
            "img_shape": shape,
            "ori_shape": shape,
            "gt_bboxes": HorizontalBoxes(boxes),
            "gt_bboxes_labels": labels,
            "gt_ignore_flags": np.zeros(len(boxes), bool),
            **extra,
        }
        return self.pipeline(results)
