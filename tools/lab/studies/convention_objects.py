"""Objects with two right boxes, as an energy head and its rivals see them: likelihoods, modes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pycocotools.coco import COCO
from torch import Tensor

from ebm_mmdet.apis.feature_cache import TestImage
from ebm_mmdet.apis.fitting.rivals import BoxRegressor
from ebm_mmdet.box_iou import box_iou
from ebm_mmdet.energy import importance_weights, samples_around
from ebm_mmdet.energy.log_density import evaluate_finite
from ebm_mmdet.evaluation.gaussian_scores import gaussian_nll
from ebm_mmdet.models import EBMBBoxHead, GradientAscentRefiner, decode_boxes, encode_boxes
from ebm_mmdet.models.pixels import box_scale
from ebm_mmdet.models.task_modules.importance_refiner import antithetic_normal

__all__ = ["SeenObject", "likelihoods", "mode_shares", "seen_objects"]

MIN_SCORE, MIN_IOU, RIGHT_IOU = 0.3, 0.5, 0.75


@dataclass(frozen=True)
class SeenObject:
    """An object that a detection matches, in network-input pixels; encoded from the detection."""

    image: int
    """Index of the image."""
    conventions: np.ndarray
    """(2, 4) right boxes, xyxy."""
    detected: np.ndarray
    """(4,) the detection."""
    target: np.ndarray
    """(4,) encoded annotated box."""
    regressed: Mapping[str, np.ndarray]
    """(4,) encoded answer of each regression head, by its kind."""
    modes: np.ndarray
    """(K, 4) modes of f, xyxy; NaN after the last."""
    mass: np.ndarray
    """(K,) their masses."""
    nll: float
    """Negative log-likelihood of the annotated box under f, normalised, in nats."""
    slice_side: int
    """The side in which the conventions differ, 0 to 3."""
    slice_at: np.ndarray
    """(G,) positions of that side in pixels, the others as in the highest mode."""
    slice_f: np.ndarray
    """(G,) f there."""


def _matches(image: TestImage, truth: COCO, category_ids: Sequence[int]) -> Iterator[tuple]:
    """Detection and annotation of each object, by descending score, one to one."""
    found = image.detections.pred_instances
    free = [a for a in truth.imgToAnns[image.detections.img_id] if len(a["conventions"]) == 2]
    for i in found.scores.argsort(descending=True, stable=True).tolist():
        if found.scores[i] < MIN_SCORE:
            return
        category, box = category_ids[int(found.labels[i])], found.bboxes[i].numpy()
        overlaps = [
            box_iou(box, _conventions(a)).max() * (a["category_id"] == category) for a in free
        ]
        if overlaps and max(overlaps) >= MIN_IOU:
            yield i, free.pop(int(np.argmax(overlaps)))


def _conventions(annotation: dict) -> np.ndarray:
    boxes = np.array(annotation["conventions"], float)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


@torch.no_grad()
def seen_objects(
    images: Sequence[TestImage],
    truth: COCO,
    category_ids: Sequence[int],
    energy: EBMBBoxHead,
    regressors: Mapping[str, BoxRegressor],
    refiner: GradientAscentRefiner,
    points: int = 81,
) -> list[SeenObject]:
    """Ask all heads about every object that a detection matches with its better convention.

    Args:
        images: cached detections.
        truth: annotations with two conventions each.
        category_ids: COCO category of each label.
        energy: trained energy head.
        regressors: trained regression heads, by their kind.
        refiner: of the energy head, with ``num_modes`` and ``start_std``.
        points: G, of each slice of f.
    """
    objects = []
    for number, image in enumerate(images):
        pairs = list(_matches(image, truth, category_ids))
        if not pairs:
            continue
        rows = torch.tensor([i for i, _ in pairs])
        found = image.detections.pred_instances[rows]
        scale = box_scale(image.detections, rescale=True)
        boxes, index = found.bboxes * scale, torch.zeros_like(rows)
        ways = torch.tensor(np.stack([_conventions(a) for _, a in pairs])).float() * scale
        annotated = torch.tensor([a["bbox"] for _, a in pairs])
        annotated[:, 2:] += annotated[:, :2]
        target = encode_boxes(annotated * scale, boxes)
        fn = energy.log_density_fn(energy.prepare(image.neck), boxes, index, found.labels)
        result = refiner(fn, torch.zeros_like(boxes))
        nll = _nll(fn, target, result.modes, refiner)
        modes = decode_boxes(result.modes, boxes[:, None])
        regressed = {
            kind: head.offsets(head.prepare(image.neck), boxes, index)
            for kind, head in regressors.items()
        }
        side = (ways[:, 0] - ways[:, 1]).abs().argmax(1)
        at, slice_boxes = _along(modes[:, 0], ways, side, points)
        f = evaluate_finite(fn, encode_boxes(slice_boxes, boxes[:, None]))
        for i in range(len(pairs)):
            values = (ways, boxes, target, modes, result.mode_mass, nll, side, at, f)
            each = [value[i].numpy() for value in values]
            answers = {kind: value[i].numpy() for kind, value in regressed.items()}
            known = (*each[:3], answers, *each[3:5], float(each[5]), int(each[6]))
            objects.append(SeenObject(number, *known, *each[7:]))
    return objects


def _nll(fn, target: Tensor, modes: Tensor, refiner: GradientAscentRefiner) -> Tensor:
    """Return log Z - f(target) (n,); log Z by importance sampling around the modes."""
    std = torch.as_tensor(refiner.start_std).expand(4)
    samples, log_q = samples_around(modes, std, antithetic_normal(64, 4, seed=1))
    log_z = importance_weights(evaluate_finite(fn, samples), log_q).log_z
    return log_z - evaluate_finite(fn, target[:, None])[:, 0]


def _along(box: Tensor, ways: Tensor, side: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Positions (n, G) of one side around both conventions, and boxes (n, G, 4) with it there."""
    ends = ways.gather(2, side[:, None, None].expand(-1, 2, 1)).squeeze(2)
    low, high = ends.amin(1, keepdim=True), ends.amax(1, keepdim=True)
    margin = 0.4 * (high - low)
    at = torch.linspace(0, 1, points) * (high - low + 2 * margin) + low - margin
    boxes = box[:, None].repeat(1, points, 1)
    return at, boxes.scatter(2, side[:, None, None].expand(-1, points, 1), at[..., None])


def likelihoods(objects: Sequence[SeenObject]) -> dict[str, float]:
    """Mean negative log-likelihood of the annotated box, encoded relative to the detection.

    For the detector and the regression heads, which give a box alone, it is that of a Gaussian
    around the box, whose mean and covariance are those of the residuals on the other half of the
    images.
    """
    image = np.array([each.image for each in objects])
    target = np.array([each.target for each in objects], float)
    values = {"detector": target}
    for kind in objects[0].regressed:
        values[kind] = target - np.array([each.regressed[kind] for each in objects], float)
    found = {}
    for name, residual in values.items():
        scores = np.empty(len(residual))
        for half in (0, 1):
            inside = image % 2 == half
            other = residual[~inside]
            covariance = np.cov(other.T)[None].repeat(inside.sum(), 0)
            scores[inside] = gaussian_nll(residual[inside] - other.mean(0), covariance)
        found[name] = float(scores.mean())
    found["energy"] = float(np.mean([each.nll for each in objects]))
    return found


def mode_shares(objects: Sequence[SeenObject]) -> dict[str, float]:
    """How often the modes are the two conventions, and how their masses divide.

    Returns:
        ``one`` and ``both``: share of objects of which at least one, or both, of the conventions
        are among the modes, with an IoU of 0.75. ``mass``: their mean mass together where both are;
        ``with_handle``: the share of the convention with the handle in it, whose true value is 1/2.
    """
    right = [box_iou(each.conventions[:, None], each.modes) >= RIGHT_IOU for each in objects]
    both = [r.any(1).all() for r in right]
    masses = np.array(
        [
            [np.nansum(each.mass * r) for r in hits]
            for each, hits, good in zip(objects, right, both)
            if good
        ]
    ).reshape(-1, 2)
    total = masses.sum(1)
    return dict(
        one=float(np.mean([r.any() for r in right])),
        both=float(np.mean(both)),
        mass=float(total.mean()) if len(total) else float("nan"),
        with_handle=float((masses[:, 1] / total).mean()) if len(total) else float("nan"),
    )
