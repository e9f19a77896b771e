"""The refiner of one call of a model, instead of the model's own, and what the call needs."""

from __future__ import annotations

import copy
from numbers import Integral

from torch import nn

from ..energy import Refiner, evaluate_only
from ..models.detectors import EBMDetector

__all__ = ["refiner_of_call", "uses_head"]


def refiner_of_call(model: nn.Module, refine: bool, steps: int | None) -> Refiner | None:
    """The refiner to hand to ``EBMDetector.move``; None for the model's own.

    Args:
        model: any detector.
        refine: whether boxes are refined; if not, f is evaluated at them.
        steps: steps instead of those of the model's refiner, which does not change.

    Raises:
        ValueError: ``steps`` is no whole number >= 0, is without a refinement, or for a refiner
            that takes none.
    """
    if steps is None:
        return None if refine else evaluate_only
    if not isinstance(steps, Integral) or steps < 0:
        raise ValueError(f"{steps} refinement steps; expected a whole number, 0 or more")
    if not refine or not isinstance(model, EBMDetector):
        raise ValueError(f"refine_steps={steps} without a refinement")
    own = copy.copy(model.refiner)
    if hasattr(own, "num_steps"):
        own.num_steps = int(steps)
    elif getattr(own, "climb", None):
        own.climb = {**own.climb, "num_steps": int(steps)}
    else:
        raise ValueError(f"{steps} steps, but the refiner {type(own).__name__} takes none")
    return own


def uses_head(model: nn.Module, refine: bool) -> bool:
    """Whether boxes of a call are moved, or chosen, by f of the model's energy head.

    Args:
        model: any detector.
        refine: whether boxes are refined.
    """
    if not isinstance(model, EBMDetector):
        return False
    return model.candidates is not None or (refine and model.refiner is not None)
