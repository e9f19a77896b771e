"""How many detections of an image a study counts, and what limits them to fewer than objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmengine.config import Config
from pycocotools.coco import COCO

from ebm_mmdet.apis.box_limits import too_few_boxes
from ebm_mmdet.engine.command_line import evaluator_cfgs
from ebm_mmdet.evaluation.crowded_images import crowded_images, most_objects

__all__ = ["detections_per_image", "limit_warnings", "wrapper_and_detector"]


def detections_per_image(cfg: Config) -> int:
    """How many detections of an image count: ``max_dets`` of the config's metric, or COCO's 100.

    Of several metrics the largest one.
    """
    metrics = evaluator_cfgs(cfg.get("val_evaluator"))
    return max((metric.get("max_dets") or 0 for metric in metrics), default=0) or 100


def wrapper_and_detector(cfg: Config) -> list[tuple[str, str, Mapping]]:
    """The ``models`` of :func:`limit_warnings` whose boxes rows of one ``EBMDetector`` have."""
    return [("", "model", cfg.model), ("", "model.detector", cfg.model.detector)]


def limit_warnings(
    models: Sequence[tuple[str, str, Mapping]],
    truth: COCO,
    category_ids: Sequence[int],
    max_dets: int,
) -> list[str]:
    """Warnings if images have more objects than detections count, or than a detector keeps.

    Args:
        models: what a study tests: the beginning of a warning about it, its dotted name in its
            config, and the config of the model.
        truth: annotations of the test images.
        category_ids: the categories that are detected.
        max_dets: how many detections of an image and class count.
    """
    objects = most_objects(truth, category_ids)
    warnings = [crowded_images(truth, category_ids, max_dets)]
    for start, name, model in models:
        warnings += [start + line for line in too_few_boxes(model, objects, name)]
    return [*dict.fromkeys(filter(None, warnings))]  # limits of a wrapper are its detector's too
