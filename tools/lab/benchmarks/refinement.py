"""Time of refinement: 100 boxes, T = 10, the papers' head on the FPN of an 800 x 1216 image.

    python tools/lab/benchmarks/refinement.py [--threads 2] [--boxes 100] [--steps 10] [--repeats 5]
        [--gradient-precision bf16]

Three things are compared by their minimum over the repeats:

- the floor: only the linear layers that any implementation has to run, T + 1 forwards and T
  backwards to the input;
- ours: `gradient_ascent` on `EBMBBoxHead`, pooling included;
- naive: the papers' loop, written directly, two forwards and one full backward per step (to boxes,
  weights and feature maps), pooling by two dense products over the whole map of each level.

Likewise one training step of this head on frozen features, forwards and backwards, with 127 boxes
of noise around each of eight objects: the floor is its linear layers on as many rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _timing import best_time, linear_layers, read_options
from mmdet.registry import MODELS
from rich.console import Console
from rich.table import Table

import ebm_mmdet  # noqa: F401  registers the head
from ebm_mmdet.energy import gradient_ascent
from ebm_mmdet.models import EBMBBoxHead, decode_boxes
from ebm_ops import prroi_pool_levels

STEP = torch.tensor([8e-4, 8e-4, 3.2e-3, 3.2e-3])
STRIDES = (4, 8, 16, 32)


OBJECTS, NOISE = 8, 127


def make_head(gradient_precision: str = "fp32") -> EBMBBoxHead:
    """The head of configs/ebm/faster_rcnn_r50_fpn_nceplus.py with weights that are not flat."""
    noise = dict(type="GaussianMixtureNoise", sigmas=[0.075, 0.15, 0.3], dim=4)
    objective = dict(type="NCEObjective", noise=noise, beta=0.1, num_noise=NOISE)
    head = MODELS.build(
        dict(
            type="EBMBBoxHead",
            num_classes=80,
            objective=objective,
            gradient_precision=gradient_precision,
        )
    )
    torch.nn.init.normal_(head.fc_energy.weight, std=0.05)
    return head


def make_input(num_boxes: int) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Maps of an 800 x 1216 image; boxes of 24 to 480 px, log-uniform, sides within 1 : 2."""
    maps = [torch.randn(1, 256, 800 // s, 1216 // s) for s in STRIDES]
    size = torch.exp(torch.empty(num_boxes).uniform_(3.18, 6.17))
    ratio = torch.exp(torch.empty(num_boxes).uniform_(-0.35, 0.35))
    sides = torch.stack((size * ratio, size / ratio), 1)
    corner = torch.rand(num_boxes, 2) * (torch.tensor([1216.0, 800.0]) - sides).clamp(min=0)
    return maps, torch.cat((corner, corner + sides), 1), torch.randint(80, (num_boxes,))


def dense_pool(features: torch.Tensor, rois: torch.Tensor, bins: int) -> torch.Tensor:
    """PrRoIPool of boxes (n, 4) in cells as Wy F Wx^T over the whole map (C, H, W)."""

    def weights(low: torch.Tensor, high: torch.Tensor, cells: int) -> torch.Tensor:
        edges = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, bins + 1)
        u = (edges[..., None] - torch.arange(cells)).clamp(-1, 1)
        integral = 0.5 + u - 0.5 * u * u.abs()
        return (integral[:, 1:] - integral[:, :-1]) * bins / (high - low)[:, None, None]

    rows = torch.einsum(
        "npi,cij->ncpj", weights(rois[:, 1], rois[:, 3], features.shape[1]), features
    )
    return torch.einsum("ncpj,nqj->ncpq", rows, weights(rois[:, 0], rois[:, 2], features.shape[2]))


def papers_loop(
    head: EBMBBoxHead,
    maps: list[torch.Tensor],
    boxes: torch.Tensor,
    labels: torch.Tensor,
    steps: int,
) -> torch.Tensor:
    """Algorithm 1 as in the released code: without caching, and with all gradients."""
    maps = [m.clone().requires_grad_() for m in maps]
    offsets, step = torch.zeros(len(boxes), 4), STEP.repeat(len(boxes), 1)

    def f(u: torch.Tensor) -> torch.Tensor:
        current = decode_boxes(u, boxes)
        with torch.no_grad():
            level = head.assign_levels(current)
        members = [torch.nonzero(level == k).squeeze(1) for k in range(len(STRIDES))]
        pooled = [
            dense_pool(maps[k][0], current[m] / STRIDES[k], 7)
            for k, m in enumerate(members)
            if len(m)
        ]
        x = torch.cat(pooled)[torch.argsort(torch.cat(members))].flatten(1)
        for layer in head.trunk:
            x = layer(x).relu()
        return head.fc_energy(x).gather(1, labels[:, None])[:, 0]

    for _ in range(steps):
        u = offsets.clone().requires_grad_()
        before = f(u)
        before.sum().backward()
        proposal = offsets + step * u.grad
        with torch.no_grad():
            worse = (f(proposal) < before)[:, None]
        offsets = torch.where(worse, offsets, proposal)
        step = torch.where(worse, step * 0.5, step)
    return offsets


def training_steps(head: EBMBBoxHead, maps: list[torch.Tensor]) -> dict[str, Callable[[], None]]:
    """A training step of the head, and of its linear layers alone, by name."""
    _, boxes, labels = make_input(OBJECTS)
    index = torch.zeros(OBJECTS, dtype=torch.long)
    rows = torch.randn(OBJECTS * (1 + NOISE), head.trunk[0].in_features)

    def layers() -> None:
        head.zero_grad(set_to_none=True)
        x = rows
        for layer in head.trunk:
            x = layer(x).relu()
        head.fc_energy(x).sum().backward()

    def step() -> None:
        head.zero_grad(set_to_none=True)
        head.loss(head.prepare(maps), boxes, index, labels)["loss_energy"].backward()

    return {"training: linear layers (the floor)": layers, "training step": step}


def main() -> None:
    """Time all of them and print them with their ratios and the targets."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gradient-precision", choices=("fp32", "bf16"), default="fp32")
    args = read_options(parser, threads=2, boxes=100, steps=10, repeats=5)

    head = make_head(args.gradient_precision).eval()
    maps, boxes, labels = make_input(args.boxes)
    index = torch.zeros(args.boxes, dtype=torch.long)
    feats = head.prepare(maps)
    fn = head.log_density_fn(feats, boxes, index, labels)
    start = torch.zeros(args.boxes, 4)
    weights = [layer.weight.detach() for layer in (*head.trunk, head.fc_energy)]

    def pooling() -> None:
        rois, scales = torch.cat((index[:, None], boxes), 1), [1 / stride for stride in STRIDES]
        for step in range(args.steps + 1):
            rois.requires_grad_(step < args.steps)
            pooled = prroi_pool_levels(feats, rois, head.assign_levels(boxes), 7, scales)
            if step < args.steps:
                torch.autograd.grad(pooled.sum(), rois)
            rois = rois.detach()

    rows = {
        "linear layers (the floor)": lambda: linear_layers(weights, args.boxes, args.steps),
        "pooling alone": pooling,
        "refinement": lambda: gradient_ascent(fn, start, STEP, args.steps),
        "naive": lambda: papers_loop(head, maps, boxes, labels, args.steps),
    }
    # The slow one is measured fewer times, because its noise does not matter at this ratio.
    seconds = {
        name: best_time(run, 1 if name == "naive" else args.repeats) for name, run in rows.items()
    }
    table = Table(title=f"{args.boxes} boxes, T = {args.steps}, {args.threads} threads")
    table.add_column("what")
    table.add_column("ms", justify="right")
    table.add_column("x floor", justify="right")
    floor = seconds["linear layers (the floor)"]
    for name, value in seconds.items():
        table.add_row(name, f"{1e3 * value:.0f}", f"{value / floor:.2f}")
    console = Console()
    console.print(table)
    head.train()
    training = {
        name: best_time(run, args.repeats) for name, run in training_steps(head, maps).items()
    }
    least, step = training.values()
    console.print(
        f"training step of {OBJECTS * (1 + NOISE)} boxes: {1e3 * step:.0f} ms, linear layers "
        f"{1e3 * least:.0f} ms, ratio {step / least:.2f} (target: at most 1.3)"
    )
    head.eval()
    ours = gradient_ascent(fn, start, STEP, args.steps).y
    naive = papers_loop(head, maps, boxes, labels, args.steps)
    console.print(
        f"refinement / floor = {seconds['refinement'] / floor:.2f} (target: at most 1.12), naive / "
        f"refinement = {seconds['naive'] / seconds['refinement']:.1f} (target: at least 3)\n"
        f"largest difference of the two results: "
        f"{(ours - naive).abs().max():.1e} in encoded coordinates"
    )


if __name__ == "__main__":
    main()
