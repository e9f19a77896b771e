"""Some images of a data set, with their annotations in pixels of the image files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO

from .items import read_item

__all__ = ["ImageSet", "image_key"]


def image_key(info: dict) -> str:
    """What tells images of a data set apart: the path of the file, or else the id.

    Raises:
        ValueError: the data set gives neither.
    """
    for name in ("img_path", "img_id", "sample_idx"):
        if info.get(name) is not None:
            return str(info[name])
    raise ValueError(
        "the training data gives neither img_path nor img_id of its images, by which those to tune "
        "on are kept out of the training"
    )


class ImageSet:
    """Images of an mmdet data set whose items come from the test pipeline.

    Args:
        dataset: the data set, or a wrapper of it.
        indices: which of its items.
    """

    def __init__(self, dataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict:
        """An item of the data set's pipeline; see :func:`.items.read_item`."""
        return read_item(self.dataset, self.indices[position], image_key)

    def truth(self, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Annotations of an image: boxes (n, 4) xyxy, labels (n,), whether to ignore (n,) bool."""
        info = self.dataset.get_data_info(self.indices[position])
        if "instances" in info:
            each = [one for one in info["instances"] if "bbox" in one]
            boxes = [one["bbox"] for one in each]
            labels = [one["bbox_label"] for one in each]
            ignored = [bool(one.get("ignore_flag", 0)) for one in each]
        else:
            sample = self[position]["data_samples"]
            found = sample.gt_instances
            boxes = getattr(found.bboxes, "tensor", found.bboxes).numpy()
            width, height = sample.metainfo.get("scale_factor", (1.0, 1.0))
            boxes = boxes / np.array([width, height, width, height])
            labels, ignored = found.labels.tolist(), [False] * len(boxes)
        return (
            np.asarray(boxes, float).reshape(-1, 4),
            np.asarray(labels, int),
            np.asarray(ignored, bool),
        )

    def coco(self, positions: Sequence[int], num_classes: int) -> COCO:
        """Annotations in COCO's format: image ids are positions, category ids are labels + 1."""
        annotations = []
        for position in positions:
            for (x1, y1, x2, y2), label, ignored in zip(*self.truth(position)):
                width, height = float(x2 - x1), float(y2 - y1)
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=int(position),
                        category_id=int(label) + 1,
                        bbox=[float(x1), float(y1), width, height],
                        area=width * height,
                        iscrowd=int(ignored),
                    )
                )
        coco = COCO()
        coco.dataset = dict(
            images=[dict(id=int(position)) for position in positions],
            annotations=annotations,
            categories=[dict(id=i + 1, name=str(i)) for i in range(num_classes)],
        )
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco
