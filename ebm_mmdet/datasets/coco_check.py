"""mmdet's reader of annotation files, with the checks of :mod:`.annotation_check`."""

from __future__ import annotations

from collections.abc import Sequence

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation.metrics import coco_metric
from mmengine.logging import print_log

from .annotation_check import AnnotationError, check_class_names, complete_annotations

__all__ = ["CheckedCOCO", "use_checked_annotations"]


class CheckedCOCO(COCO):
    """mmdet's reader of annotation files in COCO format, with checks of its content.

    Args:
        annotation_file: JSON file; None for an empty object, as in pycocotools.

    Raises:
        AnnotationError: the file is not as expected.
    """

    with_images = False
    """Whether the images will be read, so that their paths and sizes in the file are needed."""

    def __init__(self, annotation_file: str | None = None) -> None:
        self.source = str(annotation_file)
        try:
            super().__init__(annotation_file)
        except AnnotationError:
            raise
        except ValueError as error:  # includes errors of the text's encoding
            raise AnnotationError(f"{self.source} is not valid JSON: {error}") from error
        except AssertionError:
            raise AnnotationError(
                f"{self.source} holds a list or a single value; expected an object with 'images', "
                "'annotations' and 'categories'"
            ) from None

    def createIndex(self) -> None:
        """Check and complete the content, then build pycocotools' tables from it."""
        for line in complete_annotations(self.dataset, self.source, self.with_images):
            print_log(line, logger="current", level=30)
        super().createIndex()

    def get_cat_ids(
        self, cat_names: Sequence[str] = (), sup_names: Sequence = (), cat_ids: Sequence = ()
    ) -> list[int]:
        """Category ids, in the order of the file.

        Raises:
            AnnotationError: a name is not in the file. pycocotools would leave it out, and then all
                labels after it would mean other classes.
        """
        check_class_names(self.dataset, cat_names, self.source)
        return super().get_cat_ids(list(cat_names), list(sup_names), list(cat_ids))


class _CheckedDatasetCOCO(CheckedCOCO):
    """The reader of data sets, which also need the images."""

    with_images = True


def use_checked_annotations() -> None:
    """Let mmdet's ``CocoDataset`` and ``CocoMetric`` read through :class:`CheckedCOCO`.

    This holds in this process for the data sets and metrics that are built afterwards; subclasses
    with a reader of their own (LVIS, panoptic) keep it. The command-line tools, the demos and the
    studies call this; importing ``ebm_mmdet`` alone changes nothing in mmdet.
    """
    CocoDataset.COCOAPI = _CheckedDatasetCOCO
    coco_metric.COCO = CheckedCOCO
