"""The detections of a model on the images of a study, and what metrics say of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import METRICS
from mmengine.dataset import pseudo_collate
from torch import nn

from ebm_mmdet.evaluation.auxiliary_metric import AuxiliaryMetric
from ebm_mmdet.evaluation.average_precision import coco_results

from .auxiliary import auxiliary_values

__all__ = ["JUDGE", "detect_and_judge"]

JUDGE = dict(type="ProbabilisticBoxMetric")
"""Config of the metric of boxes with a covariance."""


def detect_and_judge(
    model: nn.Module,
    test_set: torch.utils.data.Dataset,
    ann_file: str,
    cat_ids: Sequence[int],
    auxiliary: Sequence[AuxiliaryMetric],
) -> dict:
    """Run a model on every image of a data set, and the metrics on what it finds.

    Args:
        model: in eval mode.
        test_set: mmdet's.
        ann_file: COCO file of the same images.
        cat_ids: ids of its categories, by label.
        auxiliary: metrics of auxiliary tasks.

    Returns:
        ``detections`` (COCO results, clipped to the image), ``uncertainty`` (values of
        :data:`JUDGE`; empty if boxes have no covariance), ``auxiliary``, and ``params``, the number
        of parameters.
    """
    metric = METRICS.build(dict(JUDGE, ann_file=ann_file))
    metric.dataset_meta = test_set.metainfo
    records, judged = [], 0
    for index in range(len(test_set)):
        with torch.inference_mode():
            (sample,) = model.test_step(pseudo_collate([test_set[index]]))
        found = sample.pred_instances
        # For all rows, because clipping alone is a gain for a detector that does not clip.
        height, width = sample.ori_shape[:2]
        found.bboxes = found.bboxes.clamp(min=0).minimum(
            found.bboxes.new_tensor([width, height, width, height])
        )
        records += coco_results(sample.img_id, found.bboxes, found.scores, found.labels, cat_ids)
        for each in auxiliary:
            each.process({}, [sample.to_dict()])
        if "box_cov" in found:
            metric.process({}, [sample.to_dict()])
            judged += 1
    values = metric.evaluate(judged) if judged else {}
    return dict(
        detections=records,
        uncertainty={key.rpartition("/")[2]: value for key, value in values.items()},
        auxiliary=auxiliary_values(auxiliary, len(test_set)),
        params=sum(parameter.numel() for parameter in model.parameters()),
    )
