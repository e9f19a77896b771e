"""The picture of a prediction, in the way that suits what it has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmdet.structures import DetDataSample
from mmengine.visualization import Visualizer

from .refined_boxes import draw_refined_boxes
from .uncertainty import uncertainty_of

__all__ = ["draw_prediction"]

OTHERS = {"masks", "pred_depth", "pred_normals", "pred_panoptic_seg"}
"""What a picture of refined boxes does not show."""


def draw_prediction(
    visualizer: Visualizer,
    name: str,
    image: np.ndarray,
    sample: DetDataSample,
    classes: Sequence[str],
    score_thr: float,
) -> np.ndarray:
    """Boxes before and after refinement, or what a visualizer makes of anything else.

    Args:
        visualizer: draws predictions of models without an energy head, and those with masks, depth
            or normals.
        name: of the image.
        image: (H, W, 3) uint8 RGB.
        sample: the prediction on the CPU, with ``detected_bboxes`` if boxes have been refined.
        classes: names of the classes.
        score_thr: lowest score of a box that is drawn.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    found = sample.get("pred_instances")
    keys = set(sample.keys()) if found is None else {*sample.keys(), *found.keys()}
    names = [] if found is None else _names(found.labels.tolist(), classes)
    if "detected_bboxes" not in keys or OTHERS & keys:
        if found is not None:
            found.label_names = names  # mmdet cannot draw a label without a name
        visualizer.add_datasample(name, image, sample, draw_gt=False, pred_score_thr=score_thr)
        return visualizer.get_image()
    shown = (found.scores >= score_thr).tolist()
    texts = [
        f"{text} {score:.2f}"
        for text, score, show in zip(names, found.scores.tolist(), shown)
        if show
    ]
    found = found[found.scores >= score_thr]
    before, after = (found[key].numpy() for key in ("detected_bboxes", "bboxes"))
    moved = not np.array_equal(before, after)
    return draw_refined_boxes(image, before if moved else None, after, texts, uncertainty_of(found))


def _names(labels: Sequence[int], classes: Sequence[str]) -> list[str]:
    return [classes[label] if label < len(classes) else f"class {label}" for label in labels]
