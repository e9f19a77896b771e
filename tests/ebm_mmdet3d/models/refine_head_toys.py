"""A small 3D head on random maps."""

from __future__ import annotations

import torch
from mmdet3d.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

from tests.ebm_mmdet3d.models.toys import GRID, boxes, head_cfg

INDEX, LABELS = torch.tensor([0, 1, 1]), torch.tensor([0, 2, 1])


def make_head(shared=False, **overrides):
    init_default_scope("mmdet3d")
    torch.manual_seed(0)
    cfg = head_cfg(**overrides)
    if shared:
        cfg["objective"]["noise"]["shared"] = True
    head = MODELS.build(cfg)
    nn.init.normal_(head.fc_energy.weight, std=0.5)
    return head.eval()


def make_maps(batch=2, channels=8):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, channels, *GRID, generator=generator)]


def fn_of(head, reference=None, maps=None):
    reference = boxes(3) if reference is None else reference
    index = INDEX[: len(reference)]
    return head.log_density_fn(
        head.prepare(maps or make_maps()), reference, index, LABELS[: len(reference)]
    )
