"""Every objective trains an energy head: boxes of the demo's images, on features made by hand."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

import ebm_mmdet  # noqa: F401  registers the models
from ebm_mmdet.datasets.shapes import render_shapes
from ebm_mmdet.models import decode_boxes

NOISE = dict(type="GaussianMixtureNoise", sigmas=[0.05, 0.1, 0.2], dim=4)
OBJECTIVES = {
    "nce": dict(type="NCEObjective", num_noise=15, noise=NOISE),
    "nceplus": dict(type="NCEObjective", num_noise=15, beta=0.1, noise=NOISE),
    "mlis": dict(type="MLISObjective", num_noise=15, noise=NOISE),
    "kldis": dict(type="KLDISObjective", num_samples=16, label_sigma=0.05, noise=NOISE),
    "mlmcmc": dict(
        type="MCMCObjective",
        step_size=0.02,
        num_steps=8,
        num_samples=8,
        grad_clip=100.0,
        magnitude_weight=0.1,
    ),
    "dsm": dict(type="DSMObjective", sigma=0.1, num_samples=8, scale_by_sigma=True),
    "sm": dict(type="ScoreMatchingObjective"),
}
# Enough for an improvement of 0.03 to 0.08.
ITERATIONS = dict(nce=80, nceplus=80, mlis=80, kldis=80, mlmcmc=150, dsm=60, sm=30)


@functools.cache
def images(first: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (count, 4, 40, 40) at stride 4, boxes (N, 4), image of each box (N,)."""
    maps, boxes, index = [], [], []
    for i in range(count):
        image, box, _ = render_shapes(7, first + i, (160, 160), extent=(24, 64))
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        edges = F.pad(x, (1, 1, 1, 1), mode="replicate")
        slope = (edges[..., 1:-1, 2:] - edges[..., 1:-1, :-2]).abs().amax(1, keepdim=True)
        maps.append(F.avg_pool2d(torch.cat([x, slope], 1), 4))
        boxes.append(torch.from_numpy(box).float())
        index.append(torch.full((len(box),), i))
    return torch.cat(maps), torch.cat(boxes), torch.cat(index)


def train(method: str, iterations: int):
    """A small head trained on 48 images; the loss of every iteration."""
    torch.manual_seed(0)
    maps, boxes, index = images(0, 48)
    head = MODELS.build(
        dict(
            type="EBMBBoxHead",
            num_classes=1,
            class_agnostic=True,
            in_channels=4,
            strides=[4],
            level_rule="concat",
            roi_shift=-0.5,
            standardize=True,
            fc_channels=[64, 64],
            act_cfg=dict(type="SiLU"),
            objective=OBJECTIVES[method],
        )
    ).train()
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.01)
    losses = []
    for _ in range(iterations):
        pick = torch.randint(len(boxes), (24,))
        label = torch.zeros_like(pick)
        losses.append(
            head.loss(head.prepare([maps]), boxes[pick], index[pick], label)["loss_energy"]
        )
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    return head.eval(), torch.stack(losses).detach()


def improvement(head) -> tuple[float, float]:
    """Mean IoU of jittered boxes on other images, before and after refinement with a prior."""
    maps, boxes, index = images(1000, 16)
    generator = torch.Generator().manual_seed(1)
    offsets = 0.08 * torch.randn(len(boxes), 4, generator=generator)
    start, label = decode_boxes(offsets, boxes), torch.zeros_like(index)
    fn = head.log_density_fn(head.prepare([maps]), start, index, label)
    refiner = TASK_UTILS.build(
        dict(type="GradientAscentRefiner", num_steps=10, prior=dict(std=[0.08] * 4))
    )
    end = decode_boxes(refiner(fn, torch.zeros_like(start)).y, start)
    return tuple(bbox_overlaps(b, boxes, is_aligned=True).mean().item() for b in (start, end))


@pytest.mark.parametrize("method", OBJECTIVES)
def test_the_loss_falls_and_boxes_improve(method):
    head, losses = train(method, ITERATIONS[method])
    fifth = len(losses) // 5
    assert losses[-fifth:].mean() < losses[:fifth].mean()
    before, after = improvement(head)
    assert after > before + 0.02
