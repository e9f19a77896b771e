"""How many boxes of an image a detector keeps, by its config."""

from __future__ import annotations

from collections.abc import Mapping

from mmdet.registry import TASK_UTILS

from .. import models  # noqa: F401  registers the kinds of candidates

__all__ = ["box_limits", "too_few_boxes"]


def box_limits(model: Mapping, name: str = "model") -> dict[str, int]:
    """Every ``max_per_img`` that limits what a model returns, by its dotted name in the config.

    Args:
        model: config of a detector, or of a wrapper with a ``detector`` inside, whose
            ``candidates`` take the place of that detector's last suppression.
        name: the dotted name of ``model``.
    """
    inner, candidates = model.get("detector"), model.get("candidates")
    limits = box_limits(inner, f"{name}.detector") if inner else {}
    if candidates:
        limits = {key: most for key, most in limits.items() if key.endswith(_PROPOSALS)}
        # Built, because a config may leave the number out.
        most = getattr(TASK_UTILS.build(candidates), "max_per_img", None)
        limits[f"{name}.candidates.max_per_img"] = most
    test_cfg = model.get("test_cfg") or {}
    limits[f"{name}.test_cfg.max_per_img"] = test_cfg.get("max_per_img")
    for part in ("rpn", "rcnn"):
        most = (test_cfg.get(part) or {}).get("max_per_img")
        limits[f"{name}.test_cfg.{part}.max_per_img"] = most
    # -1 is no limit.
    return {key: most for key, most in limits.items() if isinstance(most, int) and most > 0}


def too_few_boxes(model: Mapping, most_objects: int, name: str = "model") -> list[str]:
    """Warnings about the limits of a model that are below the number of objects of an image.

    Args:
        model: see :func:`box_limits`.
        most_objects: the largest number of objects of an image.
        name: see :func:`box_limits`.
    """
    return [
        f"The detector keeps at most {most} boxes of an image, but images have up to "
        f"{most_objects} objects: raise {key} in its config."
        for key, most in box_limits(model, name).items()
        if most < most_objects
    ]


_PROPOSALS = ".test_cfg.rpn.max_per_img"
