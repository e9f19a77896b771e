"""The usual settings of an energy head and of its training, with a comment for each number."""

from __future__ import annotations

from .config_text import Noted
from .inspection import Inspection

__all__ = ["papers_head", "schedule", "small_head"]


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
    if source in ("neck", "backbone"):
        return {"energy_head": head}
    if not isinstance(source, str):
        source = Noted(source, "objects are small: a finer map is read as well")
    return {"feature_source": source, "energy_head": head}


def papers_head(look: Inspection) -> dict:
    """``energy_head`` and ``refiner`` of the papers, on the trunk of a two-stage detector."""
    parts = _levels(look)
    scale = look.levels.get("finest_scale")
    parts["energy_head"].update(
        finest_scale=Noted(scale, "boxes of 14 to 28 cells are read on their level"),
        fc_channels=Noted(list(look.trunk), "as in the box head, whose weights the trunk takes"),
        objective=_nce(127, [0.075, 0.15, 0.3], "those of the papers, in units of the box's size"),
    )
    step = Noted([8e-4, 8e-4, 3.2e-3, 3.2e-3], "of cx/w, cy/h, log w, log h, as in the papers")
    return {**parts, "refiner": _refiner(step)}


def small_head(look: Inspection) -> dict:
    """``energy_head`` and ``refiner`` for any other detector: all maps, one f for all classes."""
    parts = _levels(look)
    parts["energy_head"].update(
        level_rule=Noted("concat", "each box is read on all maps at once"),
        standardize=Noted(True, "frozen features may have any scale"),
        fc_channels=Noted([256, 256], "wider ones learn small data by heart"),
        class_agnostic=Noted(True, "edges look the same in every class"),
        # The papers lose 0.2 AP with 31 in place of 127; an iteration costs a quarter.
        objective=_nce(31, [0.0375, 0.075, 0.15], "half of the papers': boxes are close already"),
    )
    return {**parts, "refiner": _refiner(Noted(1e-4, "short, and equal in all coordinates"))}


def _nce(num_noise: int, sigmas: list[float], comment: str) -> dict:
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
    """Training by iterations, with the optimizer that suits the start of the trunk."""
    warmup, drops = max(min(500, max_iters // 10), 1), [max_iters * 7 // 10, max_iters * 9 // 10]
    interval = max(max_iters // 5, 1)
    if look.trunk:
        optimizer = dict(type="SGD", lr=1e-3, momentum=0.9, weight_decay=1e-4)
        extra = dict(paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0))
        comment = "the papers', for a trunk that starts from trained layers"
    else:
        optimizer = dict(type="AdamW", lr=1e-3, weight_decay=0.01)
        extra, comment = {}, "for a fresh trunk on standardised features"
    return {
        "train_cfg": {
            "_delete_": True,
            "type": "IterBasedTrainLoop",
            "max_iters": Noted(max_iters, "of the head alone; the papers take 60000 on COCO"),
            "val_interval": interval,
        },
        "param_scheduler": [
            dict(type="LinearLR", start_factor=1 / 3, by_epoch=False, begin=0, end=warmup),
            dict(type="MultiStepLR", by_epoch=False, milestones=drops, gamma=0.1),
        ],
        "optim_wrapper": Noted(
            {"_delete_": True, "type": "OptimWrapper", "optimizer": optimizer, **extra}, comment
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
