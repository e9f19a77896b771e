"""Climbs whose graph has the operations of the loop, for `gpu.py`: in 3D, and in 2D by concat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import NamedTuple

import torch
from _gpu_kernels import Setting
from torch import Tensor

from ebm_mmdet.models import EBMBBoxHead
from ebm_mmdet.models.fused_climb.climb import repeated_climb
from ebm_mmdet.models.fused_climb.graphs import Graphs
from ebm_mmdet.models.heads import BoxLogDensity

__all__ = ["Climb", "recorded_climbs", "recorder"]


class Climb(NamedTuple):
    """A climb that the fused kernels do not compute."""

    name: str
    fn: BoxLogDensity
    step: float


def recorded_climbs(setting: Setting) -> Iterator[Climb]:
    """One in 2D, and one in 3D where mmdet3d is installed."""
    torch.manual_seed(0)
    count = 3 if setting.tiny else 100
    yield Climb("concat in 2D", _in_2d(setting, count), 1e-3)
    if find_spec("mmdet3d") is not None:
        yield Climb("3D", _in_3d(setting, count), 2e-4)


def recorder(climb: Climb, steps: int, make: Callable) -> Callable[[], tuple[Tensor, ...]]:
    """A function that returns y, f and accepted steps of a plan, which `make` repeats."""
    graphs, y0 = Graphs(make), torch.zeros_like(climb.fn.reference)

    def run() -> tuple[Tensor, ...]:
        found = repeated_climb(graphs, climb.fn, y0, climb.step, steps, 0.5, fused=False)
        if found is None:
            raise RuntimeError(graphs.failure)
        return found[:3]

    return run


def _in_2d(setting: Setting, count: int) -> BoxLogDensity:
    channels, width = (2, 6) if setting.tiny else (48, 256)
    noise = dict(type="GaussianMixtureNoise", sigmas=[0.1], dim=4)
    head = EBMBBoxHead(
        num_classes=3,
        objective=dict(type="NCEObjective", noise=noise),
        in_channels=channels,
        strides=(4, 8),
        feature_levels=(0, 1),
        level_rule="concat",
        pool_size=(3, 2),
        fc_channels=(width, width),
    )
    torch.nn.init.normal_(head.fc_energy.weight, std=0.5)
    maps = [torch.randn(1, channels, 192 // stride, 256 // stride) for stride in (4, 8)]
    corner = torch.rand(count, 2) * torch.tensor([200.0, 140.0])
    boxes = torch.cat([corner, corner + 15 + 40 * torch.rand(count, 2)], 1)
    return _function(setting, head, maps, boxes, torch.arange(count) % 3)


def _in_3d(setting: Setting, count: int) -> BoxLogDensity:
    from refinement3d import make_boxes, make_head

    channels = 8 if setting.tiny else 256
    maps = [torch.randn(1, channels, 200, 176)]
    labels = torch.zeros(count, dtype=torch.int64)
    return _function(setting, make_head(channels), maps, make_boxes(count), labels)


def _function(setting: Setting, head, maps, boxes: Tensor, labels: Tensor) -> BoxLogDensity:
    head = head.to(setting.device).eval()
    feats = head.prepare([each.to(setting.device) for each in maps])
    labels = labels.to(setting.device)
    return head.log_density_fn(feats, boxes.to(setting.device), torch.zeros_like(labels), labels)
