"""What a study needs of data sets without annotation files and of metrics of auxiliary tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from mmdet.registry import METRICS
from mmengine.config import Config

from ebm_mmdet.engine.command_line import evaluator_cfgs
from ebm_mmdet.evaluation.auxiliary_metric import AuxiliaryMetric
from ebm_mmdet.files import write_json

__all__ = ["annotations_of", "auxiliary_metrics", "auxiliary_values", "mean_and_spread"]


def annotations_of(dataset, out: Path) -> str:
    """Path of the COCO annotations of a data set; of a generated one they are written to ``out``.

    Args:
        dataset: with ``ann_file``, or a generated one, whose items have the annotations that a COCO
            metric without a file takes, ``data_samples.instances``.
        out: folder for the file.

    Raises:
        ValueError: an item of a data set without ``ann_file`` has no ``instances``.
    """
    if getattr(dataset, "ann_file", None):
        return dataset.ann_file
    path = out / "annotations.json"
    images, annotations = [], []
    for index in range(len(dataset)):
        sample = dataset[index]["data_samples"]
        if "instances" not in sample:
            raise ValueError(
                f"{type(dataset).__name__} has no ann_file, and its items have no instances; add "
                "'instances' to the meta_keys of its packing"
            )
        height, width = sample.ori_shape[:2]
        images.append(dict(id=sample.img_id, height=height, width=width))
        for instance in sample.instances:
            x1, y1, x2, y2 = instance["bbox"]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=sample.img_id,
                    category_id=instance["bbox_label"] + 1,
                    bbox=[x1, y1, x2 - x1, y2 - y1],
                    area=(x2 - x1) * (y2 - y1),
                    iscrowd=int(instance.get("ignore_flag", 0)),
                )
            )
    names = dataset.metainfo["classes"]
    categories = [dict(id=i, name=name) for i, name in enumerate(names, start=1)]
    write_json(path, dict(images=images, annotations=annotations, categories=categories))
    return str(path)


def auxiliary_metrics(cfg: Config) -> list[AuxiliaryMetric]:
    """The metrics of auxiliary tasks among the validation's evaluators, in their order."""
    built = []
    for evaluator in evaluator_cfgs(cfg.val_evaluator):
        cls = METRICS.get(evaluator["type"])
        if isinstance(cls, type) and issubclass(cls, AuxiliaryMetric):
            built.append(METRICS.build(evaluator))
    return built


def auxiliary_values(metrics: Sequence[AuxiliaryMetric], images: int) -> dict[str, float]:
    """Values of the metrics by their full names, without those that are not defined."""
    found = {}
    for metric in metrics:
        values = metric.evaluate(images)
        found |= {k: v for k, v in values.items() if math.isfinite(v) and not k.endswith("/images")}
    return found


def mean_and_spread(runs: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float | None]]:
    """Mean and standard deviation over runs of every value; the deviation of one run is None."""
    found = {}
    for name in runs[0]:
        values = [run[name] for run in runs if name in run]
        spread = round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else None
        found[name] = (round(float(np.mean(values)), 4), spread)
    return found
