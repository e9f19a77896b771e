"""Choose how far, how often and which boxes to move, on images kept out of the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from mmdet.registry import TASK_UTILS
from torch import Tensor, nn

from .clock import Clock
from .compared import Compared
from .detections import Detected, Method, unrefined
from .kind import Items, Kind

__all__ = ["Tuned", "tune", "tuned_methods"]

FEWEST_RESIDUALS = 20
"""With fewer matched boxes no prior is fitted."""
LEAST_SCORE = 0.05
"""Boxes below it hardly count, and are most of what a detector gives: they are not refined."""
STRENGTHS = (1 / 8, 1 / 2, 1 / 32, 2)
"""Of a prior, k: how much f counts against it. The likeliest come first."""
FACTORS = (1.0, 4.0, 0.25)
"""On the step without a prior."""
FIRST_STEPS = ((1, 1.0), (1, 0.5), (2, 0.5))
"""Number and length of steps by the regression of an energy head that has one."""
MOST_SETTINGS = 22
HARMLESS = 1e-4
"""Loss of AP, of 1, that is accepted for a larger min_score."""
MIN_SCORES = (0.1, 0.2, 0.3)
BOXES_PER_OBJECT = 1.5
"""So many boxes, the best ones, say which setting is better; all would cost images."""


@dataclass
class Tuned:
    """The settings that were best on the images to tune on."""

    refiner: dict
    min_score: float
    """Lower boxes are not refined."""
    least_score: float
    """Likewise for the regression head."""
    step: float
    """Of the regression head: 1 moves by the whole of its offset."""
    offset: list[float]
    """The constant correction (D,), encoded; zeros if there are too few residuals."""
    residuals: int
    """Number of detections that match an object."""
    images: int
    ap_before: float
    ap_after: float
    tried: int
    """Number of settings that were compared."""
    complete: bool
    """Whether there was time for all settings."""

    def to_dict(self) -> dict:
        return asdict(self)


def tune(
    kind: Kind,
    model: Any,
    heads: dict[str, nn.Module],
    images: Sequence[Detected],
    image_set: Items,
    positions: Sequence[int],
    residuals: Tensor,
    base: dict,
    num_classes: int,
    seconds: float,
    clock: Clock,
    progress: Callable[[float], None] = lambda share: None,
    max_dets: int = 100,
    compared: Compared | None = None,
) -> Tuned:
    """Compare settings by COCO's AP; one kind after the other, each from the best so far.

    An interrupted call goes on with the settings that are not in ``compared``.

    Args:
        kind: of the boxes.
        model: the detector.
        heads: ``energy`` and ``l1``, trained.
        images: detections on the images to tune on.
        image_set: the set that they are from.
        positions: position of each in the set.
        residuals: (n, D) of the detector's boxes, finite, for the prior and the constant
            correction; see :func:`~ebm_mmdet.apis.fitting.residuals.measure_residuals`.
        base: config of the refiner to begin with, with a ``step_size``.
        num_classes: of the detector.
        seconds: when this time is over, the best setting so far is taken.
        clock: the clock of the fit.
        progress: receives the share that is done.
        max_dets: boxes of an image and class that count.
        compared: keeps the AP of each setting.
    """
    compared = Compared() if compared is None else compared
    enough = len(residuals) >= FEWEST_RESIDUALS
    offset = residuals.median(0).values if enough else torch.zeros(kind.dim)
    until = clock.used() + seconds
    count = [0]

    def moved(method: Method) -> list[list[dict]]:
        """Records of each image."""
        found = []
        for image in images:
            found.append(kind.refine(model, method, image)[0])
            progress(min(count[0] / MOST_SETTINGS, 1.0))
        return [kind.records(*each, num_classes) for each in zip(positions, found)]

    def score(found: Sequence[Sequence[dict]]) -> float:
        matched = kind.matched(image_set, positions, found, num_classes, max_dets)
        value = float(matched.metrics()[0])
        return value if value == value else 0.0  # NaN: nothing is annotated

    def compare(setting: dict, method: Method) -> tuple[float, list[list[dict]] | None]:
        """AP of a setting, and its records if they are made for it."""
        count[0] += 1
        ap, found = compared.get(setting), None
        if ap is None:
            found = moved(method)
            ap = score(found)
            compared.add(setting, ap)
        return ap, found

    def compare_energy(refiner: dict, low: float) -> tuple[float, list[list[dict]] | None]:
        method = _energy(heads["energy"], refiner, low)
        return compare(_setting(refiner, low), method)

    def compare_regression(length: float) -> float:
        method = _regression(kind, heads["l1"], length, few)
        return compare(dict(regression=length, min_score=few), method)[0]

    objects = kind.num_objects(image_set, positions)
    least, few = least_score(kind, images, objects), comparing_score(kind, images, objects)
    count[0] += 1
    unmoved = moved(unrefined(heads["energy"]))
    before = score(unmoved)
    step = max((1.0, 0.5), key=compare_regression)
    best, best_found, best_ap, complete = dict(base), unmoved, -1.0, True
    regresses = getattr(heads["energy"], "regresses", False)
    for settings in _rounds(base, kind.prior(residuals) if enough else None, regresses):
        for each in settings(best):
            known = compared.get(_setting(each, few)) is not None
            if clock.used() > until and best_ap >= 0 and not known:
                complete = False
                break
            ap, found = compare_energy(each, few)
            if ap > best_ap:
                best, best_found, best_ap = each, found, ap
    low = few
    if few > least and (clock.used() <= until or compared.get(_setting(best, least)) is not None):
        low = least
        best_ap, best_found = compare_energy(best, least)
    if best_found is None:  # its AP is that of an interrupted call
        best_found = moved(_energy(heads["energy"], best, low))
    for candidate in MIN_SCORES:
        if candidate <= low:
            continue
        count[0] += 1
        ap = score([_moved_above(candidate, *each) for each in zip(best_found, unmoved)])
        if ap < best_ap - HARMLESS:
            break
        low, best_ap = candidate, max(ap, best_ap)
    return Tuned(
        refiner=best,
        min_score=low,
        least_score=least,
        step=step,
        offset=[float(value) for value in offset],
        residuals=len(residuals),
        images=len(images),
        ap_before=before,
        ap_after=best_ap,
        tried=count[0],
        complete=complete,
    )


def _setting(refiner: dict, min_score: float) -> dict:
    """What :class:`Compared` knows a setting of the energy head by."""
    return dict(refiner=refiner, min_score=min_score)


def _moved_above(min_score: float, moved: Sequence[dict], unmoved: Sequence[dict]) -> list[dict]:
    """What a refinement with this ``min_score`` gives: boxes do not influence each other."""
    pairs = zip(moved, unmoved)
    return [after if before["score"] >= min_score else before for after, before in pairs]


def _rounds(
    base: dict,
    prior: tuple[list[float], list[float] | None] | None,
    regresses: bool = False,
) -> Iterator[Callable[[dict], list[dict]]]:
    """Functions from the best setting so far to the next ones to try.

    Steps by regression come first, because they cost little and time may end, then the prior: an
    unsuitable step loses what a prior of any usual strength gains. Where the best strength or step
    is the last one on its side, one beyond it is tried too. At last regression and climb are tried
    one after the other.
    """
    if regresses:
        kept = {key: base[key] for key in ("type", "decay") if key in base}
        alone = {**kept, "num_steps": 0}
        yield lambda best: [
            {**alone, "regression_steps": steps, "regression_length": length}
            for steps, length in FIRST_STEPS
        ]
    if prior is not None:
        std, bias = prior
        plain = {key: value for key, value in base.items() if key != "step_size"}
        yield from _around(
            lambda k: {**plain, "prior": dict(std=std, scale=round(k**0.5, 4))}, STRENGTHS
        )
        yield (
            lambda best: (
                [{**best, "prior": {**best["prior"], "bias": bias}}]
                if "prior" in best and bias is not None
                else []
            )
        )
    size = base["step_size"]
    listed = isinstance(size, (list, tuple))
    yield from _around(
        lambda factor: {
            **base,
            "step_size": [factor * x for x in size] if listed else factor * size,
        },
        FACTORS,
    )
    yield lambda best: [{**best, "num_steps": n} for n in (5, 20) if _climbs(best)]
    if regresses:
        yield lambda best: [
            {**best, "regression_steps": 1} if _climbs(best) else {**base, **_first(best)}
        ]


def _climbs(refiner: dict) -> bool:
    return refiner.get("num_steps") != 0


def _first(refiner: dict) -> dict:
    """The settings of a refiner that belong to its steps by regression."""
    return {key: value for key, value in refiner.items() if key.startswith("regression_")}


def _around(
    setting: Callable[[float], dict], values: Sequence[float]
) -> Iterator[Callable[[dict], list[dict]]]:
    """The settings of all values, then one beyond the best of them if it is the last of a side."""
    yield lambda best: [setting(value) for value in values]
    beyond = {max(values): 4 * max(values), min(values): min(values) / 4}
    yield lambda best: [setting(far) for near, far in beyond.items() if best == setting(near)]


def least_score(kind: Kind, images: Sequence[Detected], objects: int) -> float:
    """``LEAST_SCORE``, or 0 if fewer boxes than there are objects have such a score."""
    boxes = sum(int((kind.scores(one) >= LEAST_SCORE).sum()) for one in images)
    return LEAST_SCORE if boxes >= objects else 0.0


def comparing_score(kind: Kind, images: Sequence[Detected], objects: int) -> float:
    """The score above which boxes are moved to compare settings.

    It is the highest of ``MIN_SCORES`` that 1.5 times as many boxes have as there are objects, and
    :func:`least_score` if there is none.
    """
    scores = torch.cat([kind.scores(one) for one in images]).cpu()
    enough = BOXES_PER_OBJECT * max(objects, 1)
    high = [each for each in MIN_SCORES if int((scores >= each).sum()) >= enough]
    return max(high, default=least_score(kind, images, objects))


def _energy(head: nn.Module, refiner: dict, min_score: float) -> Method:
    return Method("energy head", TASK_UTILS.build(dict(refiner)), head, min_score)


def _regression(kind: Kind, head: nn.Module, step: float, min_score: float) -> Method:
    return Method("regression head", kind.regression_step(head, step), head, min_score)


def tuned_methods(kind: Kind, heads: dict[str, nn.Module], tuned: Tuned) -> list[Method]:
    """The rows of the table: detector, constant correction, regression head, energy head."""
    offset = kind.fixed_offset(torch.tensor(tuned.offset))
    return [
        unrefined(heads["energy"]),
        Method("constant correction", offset, heads["energy"], reads_maps=False),
        _regression(kind, heads["l1"], tuned.step, tuned.least_score),
        _energy(heads["energy"], tuned.refiner, tuned.min_score),
    ]
