r"""Time of refinement in 3D: 50 boxes, T = 10, the paper's head on the map of a KITTI frame.

    python tools/lab/benchmarks/refinement3d.py \
        [--channels 256] [--threads 2] [--boxes 50] [--repeats 10]

It is compared with the linear layers alone, which any implementation has to run: T + 1 forwards and
T backwards to the input. Times are minima over the repeats.
"""

from __future__ import annotations

import argparse

import torch
from _timing import best_time, linear_layers, read_options
from mmdet3d.registry import MODELS
from rich.console import Console
from rich.table import Table

import ebm_mmdet3d  # noqa: F401  registers the head
from ebm_mmdet.energy import gradient_ascent
from ebm_mmdet3d.models import EBM3DRefineHead

STEP = 2e-4
SIZE = torch.tensor([3.9, 1.6, 1.56])


def make_head(channels: int) -> EBM3DRefineHead:
    """The paper's head with weights that are not flat."""
    noise = dict(type="GaussianMixtureNoise", sigmas=[0.1, 0.2, 0.4], dim=7)
    head = MODELS.build(
        dict(
            type="EBM3DRefineHead",
            num_classes=1,
            in_channels=channels,
            objective=dict(type="NCEObjective", noise=noise),
        )
    )
    torch.nn.init.normal_(head.fc_energy.weight, std=0.1)
    return head.eval()


def make_boxes(number: int) -> torch.Tensor:
    """(n, 7) cars anywhere in the range, in any direction."""
    place = torch.rand(number, 2) * torch.tensor([64.0, 74.0]) + torch.tensor([3.0, -37.0])
    size = SIZE * (0.8 + 0.4 * torch.rand(number, 3))
    yaw = (2 * torch.rand(number, 1) - 1) * torch.pi
    return torch.cat((place, torch.full((number, 1), -1.7), size, yaw), 1)


def main() -> None:
    """Time both and print their ratio and the target."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--channels", type=int, default=256, help="channels of the map; SECOND has 512"
    )
    args = read_options(parser, threads=2, boxes=50, steps=10, repeats=10)

    head = make_head(args.channels)
    feats = head.prepare([torch.randn(1, args.channels, 200, 176)])
    index = torch.zeros(args.boxes, dtype=torch.long)
    fn = head.log_density_fn(feats, make_boxes(args.boxes), index, index)
    start = torch.zeros(args.boxes, 7)
    weights = [layer.weight.detach() for layer in (*head.trunk, head.fc_energy)]
    rows = {
        "linear layers (the floor)": lambda: linear_layers(weights, args.boxes, args.steps),
        "refinement": lambda: gradient_ascent(fn, start, STEP, args.steps),
    }
    seconds = {name: best_time(run, args.repeats) for name, run in rows.items()}
    floor = seconds["linear layers (the floor)"]
    table = Table(title=f"{args.boxes} boxes, T = {args.steps}, {args.threads} threads")
    table.add_column("what")
    table.add_column("ms", justify="right")
    table.add_column("x floor", justify="right")
    for name, value in seconds.items():
        table.add_row(name, f"{1e3 * value:.0f}", f"{value / floor:.2f}")
    console = Console()
    console.print(table)
    ratio = seconds["refinement"] / floor
    console.print(f"refinement / floor = {ratio:.2f} (target: at most 1.5)")


if __name__ == "__main__":
    main()
