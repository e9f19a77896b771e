"""COCO box AP with values at single high IoU thresholds, where refinement has its effect."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval, COCOevalMP
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from ..box_iou import box_iou
from ..datasets.annotation_check import check_class_names
from ..datasets.coco_check import CheckedCOCO
from .average_precision import finite_or_empty
from .class_check import ClassCheck
from .conventions import (
    ConventionCOCOeval,
    ConventionCOCOevalMP,
    best_convention_iou,
    check_conventions,
)
from .crowded_images import crowded_images, cut_detections
from .image_check import ImageCheck, images_without_predictions

__all__ = ["HighIoUCocoMetric", "true_positive_ious"]

# Position in `COCOeval.stats`; the names are mmdet's.
STATS = {"mAP": 0, "mAP_50": 1, "mAP_75": 2, "mAP_s": 3, "mAP_m": 4, "mAP_l": 5}
STATS |= {"AR@100": 6, "AR@300": 7, "AR@1000": 8, "AR_s@1000": 9, "AR_m@1000": 10, "AR_l@1000": 11}
HIGH_IOU = {"mAP_60": 0.6, "mAP_70": 0.7, "mAP_80": 0.8, "mAP_90": 0.9}
MEAN_IOU = "mIoU_TP"
ITEMS = ("mAP", "mAP_50", "mAP_60", "mAP_70", "mAP_75", "mAP_80", "mAP_90")
ITEMS += ("mAP_s", "mAP_m", "mAP_l", MEAN_IOU)


@METRICS.register_module()
class HighIoUCocoMetric(ClassCheck, CocoMetric):
    """mmdet's `CocoMetric` with more values of the box evaluation, and without rounding.

    For ``metric='bbox'`` it returns, besides mmdet's own keys, ``bbox_mAP_60``, ``bbox_mAP_70``,
    ``bbox_mAP_80``, ``bbox_mAP_90`` (average precision at that one IoU threshold, for all areas and
    the largest number of detections) and ``bbox_mIoU_TP``. The last is the mean IoU, in [0, 1], of
    the detections that COCO's matching at IoU >= 0.5 pairs with an object that is not a crowd; NaN
    if there is none. Values are fractions in full precision (mmdet rounds to three decimals, which
    hides small differences); -1 means "no such object", as in pycocotools. Without any detection
    the AP is 0.

    Arguments are those of `mmdet.evaluation.CocoMetric`; ``metric_items`` may name the new keys
    too. mmdet computes the other metrics (``segm``, ``proposal``, ``proposal_fast``).

    Args:
        max_dets: number of detections per image and class that count in every average precision,
            for images with more than 100 objects. By default COCO's: 100 in ``mAP``, and the last
            of ``proposal_nums`` in the others. A warning is logged if images have more objects
            than that, or than the detector seems to keep.
        conventions: an object may have several right boxes, in the key ``conventions`` of its
            annotation (:mod:`ebm_mmdet.evaluation.conventions`), and the box values are computed
            with the IoU of the better-matching one. Its area is that of ``bbox``.

    Raises:
        KeyError: an entry of ``metric_items`` does not exist.
        ValueError: ``max_dets`` is below 100, or ``conventions`` are to be read without
            ``ann_file``.
        AnnotationError: the annotation file is not as expected, or a class of the data set is not
            in it; raised before anything is evaluated. Or an image is not in it, raised at the
            first one. An image with the name of another file is a warning.
    """

    def __init__(
        self,
        ann_file: str | None = None,
        *args,
        metric_items: Sequence[str] | None = None,
        sort_categories: bool = False,
        max_dets: int | None = None,
        conventions: bool = False,
        **kwargs,
    ) -> None:
        known = {*STATS, *HIGH_IOU, MEAN_IOU}
        for item in metric_items or ():
            if item not in known:
                raise KeyError(
                    f'metric item "{item}" is not supported; choose from {sorted(known)}'
                )
        if max_dets is not None and max_dets < 100:
            raise ValueError(f"max_dets={max_dets}; give 100 or more, or leave it out")
        super().__init__(None, *args, metric_items=metric_items, **kwargs)
        if conventions and ann_file is None:
            raise ValueError("conventions=True needs ann_file, whose annotations have them")
        self.max_dets, self.conventions = max_dets, conventions
        self._check_images = ImageCheck("HighIoUCocoMetric") if ann_file is not None else None
        if ann_file is not None:
            with get_local_path(ann_file, backend_args=self.backend_args) as local_path:
                self._coco_api = CheckedCOCO(local_path)
            if sort_categories:  # as in mmdet: Objects365 numbers them differently in each file
                self._coco_api.dataset["categories"].sort(key=lambda category: category["id"])
                self._coco_api.cats = dict(sorted(self._coco_api.cats.items()))
            if conventions:
                check_conventions(self._coco_api.dataset, self._coco_api.source)
        self.evaluates_boxes = "bbox" in self.metrics
        # mmdet evaluates what is left in this list.
        self.metrics = [name for name in self.metrics if name != "bbox"]
        if self.metrics and metric_items is not None:
            self.metric_items = [item for item in metric_items if item in STATS]

        self.box_items = tuple(metric_items) if metric_items is not None else ITEMS

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise ``AnnotationError`` unless the annotation file has these classes."""
        if self._coco_api is not None:
            check_class_names(self._coco_api.dataset, classes, self._coco_api.source)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store the predictions of a batch, whose images have to be those of the annotations."""
        if self._check_images is not None:
            self._check_images(self._coco_api.imgs, self._coco_api.source, data_samples)
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate all images.

        Args:
            results: one (ground truth, prediction) pair per image, as `process` stores them.

        Returns:
            Metric name (without the prefix ``coco/``) to value.
        """
        # This also prepares the ground truth and the class and image ids.
        values = OrderedDict(super().compute_metrics(results))
        if not self.evaluates_boxes or self.format_only:
            return values
        logger = MMLogger.get_current_instance()
        logger.info("Evaluating bbox...")
        if 0 in self._coco_api.anns:
            logger.warning(
                "An annotation has id 0, which pycocotools reads as 'not matched': a detection "
                "of that object counts as a false positive. Number annotations from 1."
            )
        self._warn_of_limits([prediction for _, prediction in results], logger)
        evaluation = self._evaluate([prediction for _, prediction in results])
        for item in self.box_items:
            values[f"bbox_{item}"] = self._value(evaluation, item)

        thresholds = [0.5, 0.6, 0.7, 0.8, 0.9]
        shown = [f"{self._precision_at(evaluation, t):.4f}" for t in thresholds]
        logger.info(
            "bbox AP at IoU "
            + ", ".join(f"{t}: {value}" for t, value in zip(thresholds, shown))
            + f"; mean IoU of true positives: {_mean(true_positive_ious(evaluation)):.4f}"
        )
        if self.classwise:
            values.update(self._classwise(evaluation, logger))
        return values

    def _warn_of_limits(self, predictions: Sequence[dict], logger: MMLogger) -> None:
        """Say so if images were not predicted, or have more objects than detections count."""
        counted = {"mAP": 100, "the other values": self.proposal_nums[-1]}
        warnings = (
            images_without_predictions(
                self._coco_api, self.cat_ids, [prediction["img_id"] for prediction in predictions]
            ),
            crowded_images(self._coco_api, self.cat_ids, self.max_dets or counted),
            cut_detections(
                self._coco_api,
                self.cat_ids,
                {prediction["img_id"]: len(prediction["bboxes"]) for prediction in predictions},
            ),
        )
        for warning in filter(None, warnings):
            logger.warning(warning)

    def _evaluate(self, predictions: Sequence[dict]) -> COCOeval:
        """Run pycocotools on predictions with ``img_id, bboxes (n, 4) xyxy, scores, labels``."""
        detections = [
            dict(
                image_id=prediction["img_id"],
                bbox=finite_or_empty(self.xyxy2xywh(box)),
                score=float(score),
                category_id=self.cat_ids[label],
            )
            for prediction in predictions
            for box, score, label in zip(
                prediction["bboxes"], prediction["scores"], prediction["labels"]
            )
        ]
        if detections:
            detected = self._coco_api.loadRes(detections)
        else:  # loadRes fails on an empty list
            detected = COCO()
            detected.dataset = dict(
                images=self._coco_api.dataset["images"],
                categories=self._coco_api.dataset["categories"],
                annotations=[],
            )
            detected.createIndex()
        kinds = (COCOeval, COCOevalMP)
        if self.conventions:
            kinds = (ConventionCOCOeval, ConventionCOCOevalMP)
        evaluation = kinds[bool(self.use_mp_eval)](self._coco_api, detected, "bbox")
        evaluation.params.catIds = self.cat_ids
        evaluation.params.imgIds = self.img_ids
        evaluation.params.maxDets = list(self.proposal_nums)
        if self.max_dets is not None:
            # The summary reads the value at 100, and takes the last for the others.
            evaluation.params.maxDets = [1, 100, self.max_dets]
        evaluation.params.iouThrs = np.atleast_1d(self.iou_thrs)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation

    def _value(self, evaluation: COCOeval, item: str) -> float:
        if item == MEAN_IOU:
            return _mean(true_positive_ious(evaluation))
        if item in HIGH_IOU:
            return self._precision_at(evaluation, HIGH_IOU[item])
        if item == "mAP" and self.max_dets is not None:
            return self._precision_at(evaluation, None)
        return float(evaluation.stats[STATS[item]])

    @staticmethod
    def _precision_at(evaluation: COCOeval, threshold: float | None, category: int | None = None):
        """AP at one IoU threshold (None: mean), of one category or all; -1 without objects."""
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # all areas, most detections
        if category is not None:
            precision = precision[:, :, [category]]
        if threshold is not None:
            precision = precision[np.isclose(evaluation.params.iouThrs, threshold)]
        precision = precision[precision > -1]
        return float(precision.mean()) if precision.size else -1.0

    def _classwise(self, evaluation: COCOeval, logger: MMLogger) -> dict[str, float]:
        columns = {"mAP": None, "mAP_50": 0.5, "mAP_75": 0.75, "mAP_90": 0.9}
        rows, values = [["category", *columns]], {}
        for index, category in enumerate(evaluation.params.catIds):
            name = self._coco_api.loadCats(int(category))[0]["name"]
            found = [self._precision_at(evaluation, t, index) for t in columns.values()]
            values[f"{name}_precision"] = found[0]
            rows.append([name, *(f"{value:.4f}" for value in found)])
        logger.info("\n" + AsciiTable(rows).table)
        return values


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def true_positive_ious(evaluation: COCOeval, threshold: float = 0.5) -> np.ndarray:
    """IoU of every matched detection with the object to which COCO's matching assigned it.

    Args:
        evaluation: a box evaluation on which `evaluate` was called.
        threshold: IoU threshold of the matching; one of ``evaluation.params.iouThrs``.

    Returns:
        (n,) float64 in [0, 1], for all categories and areas, without objects that are crowds or to
        be ignored. Empty if nothing matched or the threshold was not evaluated.
    """
    rows = np.flatnonzero(np.isclose(evaluation.params.iouThrs, threshold))
    if not rows.size:
        return np.empty(0)
    several = isinstance(evaluation, (ConventionCOCOeval, ConventionCOCOevalMP))
    found, objects = [], []
    all_areas = evaluation.params.areaRng[0]
    for image in evaluation.evalImgs:
        if image is None or image["aRng"] != all_areas:
            continue
        matched = (image["dtMatches"][rows[0]] > 0) & ~image["dtIgnore"][rows[0]].astype(bool)
        found += [evaluation.cocoDt.anns[image["dtIds"][i]]["bbox"] for i in matched.nonzero()[0]]
        matches = image["dtMatches"][rows[0]][matched]
        objects += [evaluation.cocoGt.anns[int(i)] for i in matches]
    if not found:
        return np.empty(0)
    boxes = np.array(found, dtype=float)
    boxes[:, 2:] += boxes[:, :2]  # (x, y, width, height) to (x1, y1, x2, y2)
    if several:
        return np.array([best_convention_iou(*pair) for pair in zip(boxes, objects)])
    truth = np.array([each["bbox"] for each in objects], dtype=float)
    truth[:, 2:] += truth[:, :2]
    return box_iou(boxes, truth)
