"""Start the energy head's trunk from the box head of a two-stage detector."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["copy_trunk_from_box_head", "shared_fcs"]


def shared_fcs(detector: nn.Module) -> nn.ModuleList | None:
    """Fully connected layers of the box head, or None; those of the first stage of a cascade."""
    while isinstance(getattr(detector, "detector", None), nn.Module):  # a wrapper
        detector = detector.detector
    box_head = getattr(getattr(detector, "roi_head", None), "bbox_head", None)
    if isinstance(
        box_head, nn.ModuleList
    ):  # cascades: the first stage is trained on the least accurate boxes
        box_head = box_head[0]
    return getattr(box_head, "shared_fcs", None)


@torch.no_grad()
def copy_trunk_from_box_head(detector: nn.Module, energy_head: nn.Module) -> str:
    """Copy ``roi_head.bbox_head.shared_fcs`` into ``energy_head.trunk`` if all layers fit.

    Both flatten pooled features channel-major, so the weights have the same meaning. The papers
    start from these weights (their loader matches the layers by name).

    Returns:
        A clause for the loading message that describes the result.
    """
    source = shared_fcs(detector)
    if not source:
        return "trunk starts fresh (the detector has no shared fully connected layers)"
    wanted = [tuple(layer.weight.shape) for layer in energy_head.trunk]
    found = [tuple(layer.weight.shape) for layer in source]
    if wanted != found:
        return f"trunk starts fresh (its shapes {wanted} differ from the box head's {found})"
    for target, layer in zip(energy_head.trunk, source):
        target.load_state_dict(layer.state_dict())
    return "trunk copied from roi_head.bbox_head.shared_fcs"
