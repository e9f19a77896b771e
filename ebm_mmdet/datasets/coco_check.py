"""mmdet's reader of annotation files, with the checks of :mod:`.annotation_check`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation.metrics import coco_metric
from mmengine.logging import print_log

from .annotation_check import AnnotationError, check_class_names, complete_annotations

__all__ = [
    "CategoryIds",
    "CheckedCOCO",
    "class_order",
    "class_order_of_file",
    "use_checked_annotations",
]


class CategoryIds(list):
    """Category ids in the order of the labels that mmdet gives them."""

    names: tuple[str, ...] = ()
    """Of the categories."""


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
    ) -> CategoryIds:
        """Category ids, in the order of the file, by which mmdet numbers labels.

        If that is not the order of ``cat_names``, this is logged.

        Raises:
            AnnotationError: a name is not in the file. pycocotools would leave it out, and then all
                labels after it would mean other classes.
        """
        cat_names = [cat_names] if isinstance(cat_names, str) else list(cat_names)
        check_class_names(self.dataset, cat_names, self.source)
        found = CategoryIds(super().get_cat_ids(cat_names, list(sup_names), list(cat_ids)))
        name_of = {each["id"]: each["name"] for each in self.dataset["categories"]}
        found.names = tuple(name_of[each] for each in found)
        if cat_names and len(found) == len(cat_names) and list(found.names) != cat_names:
            print_log(_other_order(self.source, found.names, cat_names), "current", 30)
        return found


class _CheckedDatasetCOCO(CheckedCOCO):
    """The reader of data sets, which also need the images."""

    with_images = True


def _other_order(source: str, found: Sequence[str], classes: Sequence[str]) -> str:
    label = next(i for i, (one, other) in enumerate(zip(found, classes)) if one != other)
    return (
        f"{source} has the categories {', '.join(map(str, found[:10]))}, and the data set's "
        f"classes are {', '.join(map(str, classes[:10]))}. mmdet numbers labels in the order of "
        f"the file: label {label} is {found[label]!r}, not {classes[label]!r}. All files of a "
        "detector must have the same order; names in pictures and tables are those of the classes"
    )


def class_order(dataset) -> tuple[str, ...] | None:
    """Names of a data set's classes by label; None if it was not read by :class:`CheckedCOCO`.

    Args:
        dataset: an mmdet data set, without a wrapper.
    """
    return getattr(getattr(dataset, "cat_ids", None), "names", None) or None


def class_order_of_file(path: str | Path, classes: Sequence[str]) -> tuple[str, ...]:
    """Those of some classes that an annotation file has, in the order in which mmdet numbers them.

    Args:
        path: file in COCO's format, of which the categories alone are looked at.
        classes: names.

    Raises:
        AnnotationError: it is not JSON, or its categories have no names.
    """
    try:
        names = [each["name"] for each in json.loads(Path(path).read_bytes())["categories"]]
    except (KeyError, TypeError, ValueError) as error:
        raise AnnotationError(
            f"the order of the categories of {path} cannot be read ({type(error).__name__}: "
            f"{error}); repair the file, or let the config name another"
        ) from error
    return tuple(name for name in names if name in set(classes))


def use_checked_annotations() -> None:
    """Let mmdet's ``CocoDataset`` and ``CocoMetric`` read through :class:`CheckedCOCO`.

    This holds in this process for the data sets and metrics that are built afterwards; subclasses
    with a reader of their own (LVIS, panoptic) keep it. The command-line tools, the demos and the
    studies call this; importing ``ebm_mmdet`` alone changes nothing in mmdet.
    """
    CocoDataset.COCOAPI = _CheckedDatasetCOCO
    coco_metric.COCO = CheckedCOCO
