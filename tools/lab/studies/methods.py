"""The rows of the study: methods that change a detector's boxes, and the heads that they need."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from mmdet.registry import TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from torch import Tensor, nn

from ebm_mmdet.apis.feature_cache import TestImage
from ebm_mmdet.apis.fitting.rivals import FixedOffset, RegressionStep
from ebm_mmdet.apis.timing import timed
from ebm_mmdet.energy import evaluate_only
from ebm_mmdet.evaluation.average_precision import coco_results
from ebm_mmdet.models.detectors import EBMDetector
from ebm_mmdet.models.flip_mean import FlipMean

from .kl_voting import nms_of, vote_with
from .rivals import EnergyEnsemble, FlippedRegressor, RandomNudge

__all__ = ["ENERGY", "KL", "L1", "L2", "Method", "apply", "energy_methods", "study_methods"]

ENERGY, L1, L2, KL = "energy", "l1", "l2", "kl"
NUDGE = 0.01
MEAN_SAMPLES, MEAN_SCALE = 32, 0.5
NOT_OF_A_PRIOR = ("step_size", "regression_steps", "regression_length")
PAPERS_STEPS = [8e-4, 8e-4, 3.2e-3, 3.2e-3]


@dataclass(frozen=True)
class Method:
    """One row.

    ``refiner(head)`` makes the refiner from the trained head (None for untrained rows).
    """

    name: str
    refiner: Callable[[nn.Module | None], Callable | None]
    head: str | None = None
    """Kind of head that is trained for it, once per seed."""
    ensemble: bool = False
    """One result from the heads of all seeds together, instead of one result per seed."""
    own_candidates: bool = False
    """Start from the wrapper's candidates (energy-guided NMS) if the config has them."""
    votes: bool = False
    """Neighbours before suppression vote (:func:`.kl_voting.vote_with`); ``refiner`` is unused."""
    flips: tuple[str, ...] = ()
    """Mirror images that the head is asked about too; the answer is the mean."""
    clip: bool = True
    """Clip boxes to the image, which alone is a gain for a detector that does not clip."""


def study_methods(
    refiner: ConfigDict,
    std: Tensor,
    shift: Tensor,
    k: float,
    ensemble: bool,
    regresses: bool = False,
    flips: Sequence[str] = (),
) -> list[Method]:
    """All rows; the others are compared with the first one.

    Args:
        refiner: config of the refiner, with short steps or with its own prior.
        std: (4,) standard deviations of the residuals, for the prior.
        shift: (4,) median residual, for the constant correction and as the bias of a prior.
        k: strength of f relative to the prior, ``temperature * scale^2``.
        ensemble: add the rows that use all heads at once.
        regresses: add the rows of an energy head with a regression.
        flips: mirror images; add the rows that are means over these.
    """
    first = regression_methods(refiner) if regresses else []
    rows = [
        Method("detector, clipped", lambda head: None),
        Method("detector, not clipped", lambda head: None, clip=False),
        Method("constant correction", lambda head: FixedOffset(shift)),
        Method(f"random nudge, σ = {NUDGE}", lambda head: RandomNudge(NUDGE, seed=0)),
        *regressor_methods("L1", L1),
        *regressor_methods("KL-Loss", KL)[:2],
        Method("KL-Loss head, voting", lambda head: None, KL, votes=True),
        *first,
        *(climbs := energy_methods(refiner, std, shift, k)),
    ]
    if refiner.get("step_size") not in (None, PAPERS_STEPS):
        settings = {**refiner, "step_size": PAPERS_STEPS}
        far = TASK_UTILS.build(settings)
        rows.append(Method("energy, the papers' λ", lambda head: far, ENERGY, own_candidates=True))
    if flips:
        both = [*regressor_methods("L1", L1)[:2], *first[:1], climbs[0]]
        rows += [_over_flips(method, flips) for method in both]
    if ensemble:
        alone = [*first, *climbs[:3], *([_over_flips(climbs[0], flips)] if flips else [])]
        rows += [
            replace(method, name=f"mean of heads: {method.name}", ensemble=True) for method in alone
        ]
    return rows


def _over_flips(method: Method, flips: Sequence[str]) -> Method:
    return replace(
        method, name=f"mean over {len(flips) + 1} views: {method.name}", flips=tuple(flips)
    )


def regressor_methods(name: str, kind: str) -> list[Method]:
    """One and two rounds of a regressor beside the energy head, by the whole offset and by half."""
    steps = {"full step": (1.0, 1), "half step": (0.5, 1)}
    steps |= {"two full steps": (1.0, 2), "two half steps": (0.5, 2)}
    return [
        Method(f"{name} head, {step}", lambda head, how=how: RegressionStep(head, *how), kind)
        for step, how in steps.items()
    ]


def regression_methods(refiner: ConfigDict) -> list[Method]:
    """First steps by the regression of an energy head, alone and before the configured climb."""
    alone = dict(type=refiner.type, num_steps=0, decay=refiner.get("decay", 0.5))
    rows = {
        "regression and f, full step": dict(alone, regression_steps=1),
        "regression and f, half step": dict(alone, regression_steps=1, regression_length=0.5),
        "regression and f, two full steps": dict(alone, regression_steps=2),
        "regression and f, two half steps": dict(alone, regression_steps=2, regression_length=0.5),
        "regression and f, full step, then the climb": {**refiner, "regression_steps": 1},
    }
    built = {name: TASK_UTILS.build(settings) for name, settings in rows.items()}
    return [
        Method(name, lambda head, each=each: each, ENERGY, own_candidates=True)
        for name, each in built.items()
    ]


def energy_methods(refiner: ConfigDict, std: Tensor, shift: Tensor, k: float) -> list[Method]:
    """The configured refiner, modes with a prior without and with bias, and a mean of samples.

    The arguments are those of :func:`study_methods`.
    """
    climb = TASK_UTILS.build(refiner)
    settings = {key: value for key, value in refiner.items() if key not in NOT_OF_A_PRIOR}
    prior = dict(std=std.tolist(), scale=k**0.5)
    posterior = TASK_UTILS.build({**settings, "prior": prior})
    centred = TASK_UTILS.build({**settings, "prior": {**prior, "bias": shift.tolist()}})
    mean = TASK_UTILS.build(
        dict(
            type="ImportanceMeanRefiner",
            prior={**prior, "scale": MEAN_SCALE},
            num_samples=MEAN_SAMPLES,
        )
    )
    rows = {
        _own_name(refiner): climb,
        f"energy and prior, k = {k:g}": posterior,
        f"energy and prior with bias, k = {k:g}": centred,
        f"energy, mean of {MEAN_SAMPLES} samples, s = {MEAN_SCALE}": mean,
    }
    return [
        Method(name, lambda head, built=built: built, ENERGY, own_candidates=True)
        for name, built in rows.items()
    ]


def _own_name(refiner: ConfigDict) -> str:
    prior = refiner.get("prior")
    first = f"{refiner.regression_steps} x regression, " if refiner.get("regression_steps") else ""
    if prior is None:
        return f"energy, {first}T = {refiner.num_steps}, λ = {refiner.get('step_size')}"
    return f"energy, the {'detector' if prior['std'] == 'per_box' else 'recipe'}'s own prior"


def apply(
    method: Method,
    detector: EBMDetector,
    images: Sequence[TestImage],
    heads: Sequence[nn.Module],
    category_ids: Sequence[int],
    max_per_img: int = 100,
) -> tuple[list[dict], float]:
    """Run one row over the test images, with the refinement code of the package.

    Args:
        method: the row.
        detector: the wrapper; it is not changed.
        images: result of ``cache_test_images``.
        heads: none, the trained head, or all heads for an ensemble.
        category_ids: COCO category of each label.
        max_per_img: how many detections are kept after a vote.

    Returns:
        COCO result records, and the median time per image in seconds for scoring, moving and
        clipping boxes.
    """
    kept = detector.energy_head, detector.candidates, detector.clip_boxes
    detector.clip_boxes = "all" if method.clip else False
    if not method.own_candidates:
        detector.candidates = None
    detector.eval()
    records, seconds = [], []

    def refine(image: TestImage, source: DetDataSample) -> list[DetDataSample]:
        head, maps = _head_for(method, heads, image)
        refiner = method.refiner(head) or evaluate_only
        if isinstance(head, FlippedRegressor):
            head = head.mean
        if head is not None:
            detector.energy_head = head
        feats = detector.energy_head.prepare(maps)
        return detector.refine(feats, [source], rescale=True, refiner=refiner)

    def vote(image: TestImage, source: DetDataSample) -> list[DetDataSample]:
        nms = nms_of(detector.detector)["nms"]
        feats = heads[0].prepare(image.neck)
        return [vote_with(heads[0], feats, source, nms, max_per_img)]

    use_candidates = method.votes or detector.candidates is not None
    step = vote if method.votes else refine
    try:
        with torch.no_grad():
            for image in images:
                source = image.candidates if use_candidates else image.detections
                (sample,), took = timed(step, image, copy.deepcopy(source))
                maps = image.maps_seconds if heads else 0.0
                seconds.append(took + maps + (image.mirrored_seconds if method.flips else 0.0))
                found = sample.pred_instances
                records += coco_results(
                    sample.img_id, found.bboxes, found.scores, found.labels, category_ids
                )
    finally:
        detector.energy_head, detector.candidates, detector.clip_boxes = kept
    return records, float(np.median(seconds))


def _head_for(
    method: Method, heads: Sequence[nn.Module], image: TestImage
) -> tuple[nn.Module | FlippedRegressor | None, Sequence]:
    """What takes the place of the head for an image, and the maps that it reads."""
    if not heads:
        return None, image.neck
    if not method.flips:
        return EnergyEnsemble(heads) if method.ensemble else heads[0], image.neck
    means = [FlipMean(head, ("", *method.flips), image.input_shape) for head in heads]
    maps = [image.neck, *image.mirrored]
    if method.ensemble:
        return EnergyEnsemble(means), maps
    return FlippedRegressor(means[0]) if method.head == L1 else means[0], maps
