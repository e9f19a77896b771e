"""What the config of an energy head leaves out about the maps that it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmdet.registry import MODELS
from mmengine.logging import print_log
from torch import nn

from ..feature_maps import fill_in_levels
from ..heads import EBMBBoxHead
from .dry_run import DryRun

__all__ = ["complete_levels", "leaves_out_levels"]

_LEVELS = ("in_channels", "strides", "feature_levels")


def leaves_out_levels(energy_head: Mapping) -> bool:
    """Whether the config is of a head on maps of the detector and lacks some of its values."""
    kind = energy_head["type"]
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(kind, type) and issubclass(kind, EBMBBoxHead)):
        return False
    return any(energy_head.get(name) is None for name in _LEVELS)


def complete_levels(
    energy_head: Mapping,
    detector: nn.Module,
    sources: Sequence[str],
    run: DryRun,
    enlarge: int = 1,
) -> dict:
    """The config of the head, with what it leaves out taken from the maps of a dry run.

    Args:
        energy_head: config of the head.
        detector: the detector that ran.
        sources: dotted names of the modules whose maps the head reads.
        run: the dry run.
        enlarge: factor by which images are enlarged for the head.

    Raises:
        ValueError: a source gives no maps, or a given value does not fit the maps.
    """
    for name in sources:
        if name not in run.outputs:
            raise ValueError(
                f"feature_source={name!r} gives no maps where {type(detector).__name__} "
                "computes its features; choose one of the modules that do: "
                + ", ".join(run.candidates())
            )
    maps = [each.enlarged(enlarge) for name in sources for each in run.outputs[name]]
    head = fill_in_levels(energy_head, maps)
    found = {name: value for name, value in head.items() if energy_head.get(name) != value}
    print_log(
        f"energy_head on {' and '.join(sources)}: "
        + ", ".join(f"{name}={value}" for name, value in found.items()),
        logger="current",
    )
    return head
