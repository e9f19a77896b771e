"""Whether the images of a data set are those of a metric's annotations: ids alone do not say so.

A config names the annotations twice, for the data set and for the metric. With ``--cfg-options``
one of them is changed easily, and since most files number their images from 1, the detections of
one image are then compared with the objects of another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath

from mmengine.logging import MMLogger
from pycocotools.coco import COCO

from ..datasets.annotation_check import AnnotationError

__all__ = ["ImageCheck", "images_without_predictions"]


class ImageCheck:
    """Looks at the images of data samples, and says once what does not fit.

    Args:
        metric: name of the metric, for messages.
    """

    def __init__(self, metric: str) -> None:
        self.metric, self._told = metric, False

    def __call__(self, images: Mapping[int, dict], source: str, samples: Sequence[dict]) -> None:
        """Compare ids, and names of files where both sides have them.

        Args:
            images: entries of the annotation file, by id.
            source: name of that file.
            samples: data samples with ``img_id``, and ``img_path`` if it is known.

        Raises:
            AnnotationError: an image is not in the file.
        """
        remedy = (
            f"Give the same file to ann_file of {self.metric} and to that of the data set "
            "(test_evaluator and test_dataloader, val_evaluator and val_dataloader)"
        )
        for sample in samples:
            number, path = sample["img_id"], sample.get("img_path")
            if number not in images:
                raise AnnotationError(
                    f"the image with id {number!r} ({path}) is not in {source}. {remedy}"
                )
            name = images[number].get("file_name")
            if self._told or not path or not name or _same(path, name):
                continue
            self._told = True
            MMLogger.get_current_instance().warning(
                f"{self.metric}: the image with id {number!r} is {path} in the data set, and "
                f"{name} in {source}: detections would be compared with the objects of another "
                f"image. {remedy}"
            )


def _same(path: str, name: str) -> bool:
    """Whether the names of two files may be those of one image; folders and endings may differ."""
    one, other = PurePath(path), PurePath(name)
    if not one.suffix or not other.suffix:
        return True  # of a generated image, say
    # COCO_val2014_000000000042.jpg is 000000000042.jpg in another edition of COCO.
    return one.stem.endswith(other.stem) or other.stem.endswith(one.stem)


def images_without_predictions(
    ground_truth: COCO, category_ids: Collection[int], predicted: Collection[int]
) -> str | None:
    """A warning if objects belong to images that were not predicted, or None.

    COCO counts all images of the annotations: such objects are missed.

    Args:
        ground_truth: the annotations.
        category_ids: the evaluated categories.
        predicted: ids of the images with a prediction, which may be an empty one.
    """
    predicted, wanted = {*predicted}, {*category_ids}
    missed = [
        each["image_id"]
        for each in ground_truth.anns.values()
        if each["image_id"] not in predicted
        and each["category_id"] in wanted
        and not each.get("iscrowd")
    ]
    if not missed:
        return None
    return (
        f"{len({*missed})} of the {len(ground_truth.imgs)} images of the annotations were not "
        f"predicted, and their {len(missed)} objects count as missed: is the data set a part of "
        "them (indices, filter_cfg, another ann_file)? Give the metric an annotation file of the "
        "same images"
    )
