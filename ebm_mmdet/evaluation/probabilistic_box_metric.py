"""Quality of the uncertainty of boxes: likelihood, energy score and calibration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from torch import Tensor

from ..datasets.annotation_check import check_class_names
from ..datasets.coco_check import CategoryIds, CheckedCOCO
from ..models.box_coding import encode_boxes
from .class_check import ClassCheck
from .gaussian_scores import (
    LEVELS,
    central_coverage,
    expected_calibration_error,
    floor_covariance,
    gaussian_energy_score,
    gaussian_nll,
    side_covariance,
)
from .image_check import ImageCheck
from .matching import match_detections

__all__ = ["ProbabilisticBoxMetric"]

SIDES = ("x1", "y1", "x2", "y2")


@METRICS.register_module()
class ProbabilisticBoxMetric(ClassCheck, BaseMetric):
    """Scores of box predictions N(box, covariance), over detections that match an object.

    Reads from ``pred_instances``, in encoded coordinates ``(cx/w, cy/h, log w, log h)`` relative to
    the box itself (:mod:`ebm_mmdet.models.box_coding`), ``box_cov`` (n, 4, 4) or else ``box_std``
    (n, 4), which means a diagonal covariance. A detection counts if it is matched to an object of
    its class (:func:`~ebm_mmdet.evaluation.match_detections`); missed objects and false detections
    are measured by average precision. Returns, under the prefix ``probabilistic``:

    - ``nll``, ``energy_score``: means over detections, for encoded coordinates (no unit);
    - ``nll_px``, ``energy_score_px``: the same for the sides in pixels, with the covariance
      converted to first order;
    - ``ece_x1``, ``ece_y1``, ``ece_x2``, ``ece_y2``: expected calibration error of each side, in
      [0, 1], and ``ece``, the mean of the four;
    - ``matched``: number of detections that these values are computed from;
    - ``floored``: fraction of them whose covariance was raised to ``min_std``.

    Without any match the values are NaN, with a warning.

    Args:
        ann_file: COCO annotations.
        score_thr: detections below this score are left out.
        iou_thr: smallest IoU of a match.
        min_std: smallest standard deviation along any axis, in encoded coordinates. A covariance
            of zero, as from one sample, would make the likelihood of any truth 0.
        reliability_plot: path of a PNG to write, with the observed against the nominal coverage of
            each side. Nothing is overwritten: a further evaluation, also one of another run, writes
            ``NAME_2.png``, ``NAME_3.png``, ...
        collect_device: mmengine's.
        prefix: mmengine's.

    Raises:
        AnnotationError: the annotation file is not as expected, or a class of the data set is not
            in it; raised before anything is evaluated. Or an image is not in it, raised at the
            first one. An image with the name of another file is a warning.
        ValueError: detections have no uncertainty, or one that is not finite; raised at the first
            such image.

    Source: Gneiting and Raftery, JASA 2007; Kuleshov et al., ICML 2018.
    """

    default_prefix = "probabilistic"

    def __init__(
        self,
        ann_file: str,
        score_thr: float = 0.3,
        iou_thr: float = 0.5,
        min_std: float = 1e-3,
        reliability_plot: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not min_std > 0:
            raise ValueError(f"min_std={min_std} must be positive")
        self.ground_truth = CheckedCOCO(ann_file)
        self.score_thr, self.iou_thr, self.min_std = score_thr, iou_thr, min_std
        self.reliability_plot = reliability_plot
        self._check_images = ImageCheck("ProbabilisticBoxMetric")
        self._categories: tuple[Sequence[str], CategoryIds] | None = None

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise ``AnnotationError`` unless the annotation file has these classes."""
        check_class_names(self.ground_truth.dataset, classes, self.ground_truth.source)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Match each image's detections.

        Args:
            data_batch: unused.
            data_samples: ``img_id`` and ``pred_instances`` with boxes in the image's own pixels.
        """
        self._check_images(self.ground_truth.imgs, self.ground_truth.source, data_samples)
        categories = self._category_ids(self.dataset_meta["classes"])
        for sample in data_samples:
            found = sample["pred_instances"]
            boxes, scores, labels = (found[key].cpu() for key in ("bboxes", "scores", "labels"))
            covariance = _covariance(found, len(boxes), sample["img_id"])
            matched, truth = match_detections(
                self.ground_truth,
                sample["img_id"],
                boxes,
                scores,
                labels,
                categories,
                self.score_thr,
                self.iou_thr,
            )
            boxes = boxes[matched].double()
            self.results.append(
                dict(
                    boxes=boxes.numpy(),
                    covariance=covariance[matched.numpy()],
                    residual=encode_boxes(truth.double(), boxes).numpy(),
                    sides=(truth - boxes).numpy(),
                )
            )

    def _category_ids(self, classes: Sequence[str]) -> CategoryIds:
        # Once for each set of classes: another order than the file's is worth one line, not one for
        # every batch.
        if self._categories is None or self._categories[0] != classes:
            self._categories = classes, self.ground_truth.get_cat_ids(cat_names=classes)
        return self._categories[1]

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Evaluate all images; see the class for the values.

        Args:
            results: one dict per image, as :meth:`process` stores them.
        """
        boxes, covariance, residual, sides = (
            np.concatenate([result[key] for result in results])
            for key in ("boxes", "covariance", "residual", "sides")
        )
        names = ("nll", "energy_score", "nll_px", "energy_score_px", "ece")
        names += tuple(f"ece_{side}" for side in SIDES)
        if not len(boxes):
            MMLogger.get_current_instance().warning(
                f"No detection with a score of at least {self.score_thr} overlaps an object of "
                f"its class by {self.iou_thr}: there is no uncertainty to evaluate."
            )
            return {**dict.fromkeys((*names, "floored"), float("nan")), "matched": 0}
        covariance, floored = floor_covariance(covariance, self.min_std)
        in_pixels = side_covariance(boxes, covariance)
        z = sides / np.sqrt(in_pixels[:, range(4), range(4)])
        errors = [expected_calibration_error(column) for column in z.T]
        values = (
            gaussian_nll(residual, covariance).mean(),
            gaussian_energy_score(residual, covariance).mean(),
            gaussian_nll(sides, in_pixels).mean(),
            gaussian_energy_score(sides, in_pixels).mean(),
            np.mean(errors),
            *errors,
        )
        if self.reliability_plot is not None:
            self._plot(z)
        return {
            **dict(zip(names, map(float, values))),
            "matched": len(boxes),
            "floored": float(floored.mean()),
        }

    def _plot(self, z: np.ndarray) -> None:
        # Imported here, because matplotlib is slow to import and most evaluations draw nothing.
        from ..visualization import plot_reliability, save_figure

        curves = {side: central_coverage(column) for side, column in zip(SIDES, z.T)}
        path = _new_path(Path(self.reliability_plot))
        save_figure(plot_reliability(LEVELS, curves, len(z)), path)
        MMLogger.get_current_instance().info(f"the reliability of {len(z)} boxes is in {path}")


def _new_path(path: Path) -> Path:
    """The path itself, or with the first number from 2 on under which there is no file."""
    # A link whose target is missing is there too: writing would fill in the target.
    numbered = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in count(2))
    return next(new for new in chain([path], numbered) if not os.path.lexists(new))


def _covariance(found: dict, number: int, image_id: int) -> np.ndarray:
    """Covariances (n, 4, 4) float64 of the detections of an image."""
    if "box_cov" in found:
        covariance = _array(found["box_cov"]).reshape(number, 4, 4)
    elif "box_std" in found:
        covariance = _array(found["box_std"]).reshape(number, 4)[:, :, None] ** 2 * np.eye(4)
    elif number == 0:
        return np.zeros((0, 4, 4))
    else:
        raise ValueError(
            f"pred_instances of image {image_id} has neither box_cov (n, 4, 4) nor box_std (n, 4); "
            "give the detector a refiner that computes them, such as ImportanceMeanRefiner, or "
            "remove ProbabilisticBoxMetric"
        )
    if not np.isfinite(covariance).all():
        raise ValueError(f"an uncertainty in image {image_id} is not finite")
    return covariance


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().double().numpy()
