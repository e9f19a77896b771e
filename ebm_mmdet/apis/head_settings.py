"""The usual settings of an energy head and of its training, with a comment for each number."""

from __future__ import annotations

from .config_text import Noted
from .inspection import Inspection
from .map_choice import REGION_SCALE
from .residual_spread import ResidualSpread

__all__ = ["FINAL_RATE", "papers_head", "schedule", "small_head"]

SIGMAS = (0.75, 1.5, 3.0)
"""Of the noise, in units of the spread of the detector's residuals: it reaches where boxes are."""
FINAL_RATE = 0.01
"""Share of the learning rate that is left at the end of its cosine."""
PAPERS, SMALL = 0.1, 0.05
"""Spreads for which the usual noise and steps are right, where none was measured."""


def _levels(look: Inspection) -> dict:
    classes = f"as in {look.detector}"
    source = look.feature_source
    modules = source if isinstance(source, str) else " and ".join(source)
    maps = f"of {modules}, fine to coarse; `python -m ebm_mmdet inspect` lists all maps"
    levels = look.levels
    head = {
        "type": "EBMBBoxHead",
        "num_classes": Noted(look.num_classes, classes),
        "in_channels": levels["in_channels"],
        "strides": Noted(levels["strides"], maps),
        "feature_levels": levels["feature_levels"],
        "roi_shift": Noted(look.roi_shift, look.roi_shift_reason),
    }
    parts = {"energy_head": head}
    if source not in ("neck", "backbone"):
        if not isinstance(source, str):
            source = Noted(source, "objects are small: finer maps are read as well")
        parts = {"feature_source": source, **parts}
    if look.enlarge > 1:
        comment = "times the image, for the head alone; strides are in pixels of the image as it is"
        parts = {"enlarge": Noted(look.enlarge, comment), **parts}
    return parts


def papers_head(look: Inspection, spread: ResidualSpread | None = None) -> dict:
    """``energy_head`` and ``refiner`` of the papers, on the trunk of a two-stage detector.

    Args:
        look: what the detector looks like.
        spread: of its residuals, by which the papers' noise and steps are scaled.
    """
    parts = _levels(look)
    scale = look.levels.get("finest_scale")
    parts["energy_head"].update(
        finest_scale=Noted(scale, "boxes of 14 to 28 cells are read on their level"),
        fc_channels=Noted(list(look.trunk), "as in the box head, whose weights the trunk takes"),
        # The papers lose 0.2 AP with 31 in place of 127; an iteration costs a quarter.
        objective=_nce(31, PAPERS, spread, "those of the papers, in units of the box's size"),
    )
    step = Noted(
        _steps([8e-4, 8e-4, 3.2e-3, 3.2e-3], PAPERS, spread),
        "of cx/w, cy/h, log w, log h, as in the papers" + _for_the_noise(spread),
    )
    return {**parts, "refiner": _refiner(step)}


def small_head(look: Inspection, spread: ResidualSpread | None = None) -> dict:
    """``energy_head`` and ``refiner`` for any other detector: all maps, one f for all classes.

    Args:
        look: what the detector looks like.
        spread: of its residuals, by which noise and steps are scaled.
    """
    parts = _levels(look)
    parts["energy_head"].update(
        level_rule=Noted("concat", "each box is read on all maps at once"),
        region_scale=Noted(REGION_SCALE, "a box too small sees how far its object goes on"),
        standardize=Noted(True, "frozen features may have any scale"),
        fc_channels=Noted([256, 256], "wider ones learn small data by heart"),
        class_agnostic=Noted(True, "edges look the same in every class"),
        objective=_nce(31, SMALL, spread, "half of the papers': boxes are close already"),
    )
    if "pool_size" in look.levels:
        parts["energy_head"]["pool_size"] = Noted(
            look.levels["pool_size"], "bins for each map: one for each cell of a usual object"
        )
    if spread is not None:
        parts["energy_head"]["regression"] = Noted(
            {"residual_std": [round(each, 3) for each in spread.std]},
            "says where the object is, for detections as far from it as these are",
        )
    step = Noted(
        _steps([1e-4], SMALL, spread)[0],
        "short, and equal in all coordinates" + _for_the_noise(spread),
    )
    return {**parts, "refiner": _refiner(step)}


def _steps(usual: list[float], nominal: float, spread: ResidualSpread | None) -> list[float]:
    """Steps that go the same way in units of the spread: λ ∇f scales with its square."""
    if spread is None:
        return usual
    return [_two_digits(each * (spread.value / nominal) ** 2) for each in usual]


def _for_the_noise(spread: ResidualSpread | None) -> str:
    return "" if spread is None else "; scaled with the noise squared"


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def _nce(num_noise: int, nominal: float, spread: ResidualSpread | None, comment: str) -> dict:
    """NCE+ with noise for a measured spread, or for the usual one with a comment that says why."""
    if spread is not None:
        comment = (
            f"{', '.join(f'{each:g}' for each in SIGMAS)} times the spread of the detector's "
            f"residuals, {spread.value:.3f} on {spread.boxes} boxes"
        )
    sigmas = [round(each * (spread.value if spread else nominal), 4) for each in SIGMAS]
    return {
        "type": "NCEObjective",
        "num_noise": Noted(num_noise, "boxes from the noise per object"),
        "beta": Noted(0.1, "NCE+: annotations are inaccurate by a tenth of the noise"),
        "noise": {
            "type": "GaussianMixtureNoise",
            "sigmas": Noted(sigmas, comment),
            "dim": 4,
        },
    }


def _refiner(step_size: Noted) -> dict:
    return {
        "type": "GradientAscentRefiner",
        "step_size": step_size,
        "num_steps": Noted(10, "as in the papers; each costs a pass through the head"),
        "decay": Noted(0.5, "of the step size, after a step that does not climb"),
    }


def schedule(look: Inspection, max_iters: int) -> dict:
    """Training by iterations, with the learning rate that suits the start of the trunk."""
    warmup = max(min(500, max_iters // 20), 1)
    end = max(max_iters, warmup + 1)
    interval = max(max_iters // 5, 1)
    # Not the papers' SGD, which needs more iterations than a fit has (docs/trials.md).
    if look.trunk:
        rate, comment = 3e-4, "for a trunk that starts from trained layers"
    else:
        rate, comment = 1e-3, "for a fresh trunk on standardised features"
    optimizer = dict(type="AdamW", lr=rate, weight_decay=0.01)
    return {
        "train_cfg": {
            "_delete_": True,
            "type": "IterBasedTrainLoop",
            "max_iters": Noted(max_iters, "of the head alone; the papers take 60000 on COCO"),
            "val_interval": interval,
        },
        "param_scheduler": [
            dict(type="LinearLR", start_factor=1 / 3, by_epoch=False, begin=0, end=warmup),
            dict(
                type="CosineAnnealingLR",
                by_epoch=False,
                begin=warmup,
                end=end,
                T_max=end - warmup,
                eta_min_ratio=FINAL_RATE,
            ),
        ],
        "optim_wrapper": Noted(
            {"_delete_": True, "type": "OptimWrapper", "optimizer": optimizer}, comment
        ),
        "default_hooks": {
            "checkpoint": {
                "type": "CheckpointHook",
                "by_epoch": False,
                "interval": interval,
                "backend_args": Noted({"backend": "atomic"}, "complete or not there at all"),
            }
        },
        "log_processor": {"by_epoch": False},
    }
