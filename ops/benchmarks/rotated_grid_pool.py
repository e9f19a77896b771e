"""Time of pooling on rotated grids beside `F.grid_sample`, mmcv and the product that follows it.

    python ops/benchmarks/rotated_grid_pool.py [--threads 2] [--boxes 50] [--around 1]
        [--repeats 20] [--copies]

The map of SA-SSD on KITTI (256 channels, 200 x 176 cells of 0.4 m), float32, channels last as the
head keeps it; boxes of cars (3.2..4.6 m x 1.5..1.9 m) anywhere on it and in any direction, a 4 x 7
grid, seeded. `--around 129` puts that many boxes around each car, as training does.

The rivals: `grid_sample` with the map expanded for each box, as in the papers' code, and with the
grids of all boxes stacked into one tall grid; mmcv's `roi_align_rotated`, which averages bins
(one sample each, the fewest it accepts) and gives no gradient to boxes. They get the map as planes,
which is faster for them. `--copies` adds the gradient to the expanded map, which the papers' code
computes too: 36 MB for each box.

All candidates run in turns and the minimum of each counts, so that other load on the machine
affects them equally.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from prroi_pool import take_turns
from torch import Tensor

from ebm_ops import backend_info, rotated_grid_pool
from ebm_ops.rotated_grid_pool import reference

CHANNELS, HEIGHT, WIDTH, CELL, ORIGIN = 256, 200, 176, 0.4, (0.0, -40.0)
ROWS, COLUMNS = 4, 7
WHERE = {"origin": ORIGIN, "cell_size": CELL}


def cars(count: int, around: int) -> Tensor:
    """(count * around, 5) boxes; see the module's text."""
    g = torch.Generator().manual_seed(0)
    low = torch.tensor([3.0, -37.0, 3.2, 1.5, -math.pi])
    high = torch.tensor([67.0, 37.0, 4.6, 1.9, math.pi])
    boxes = low + (high - low) * torch.rand(count, 5, generator=g)
    noise = torch.randn(count, around, 5, generator=g) * torch.tensor(
        [0.17, 0.17, 0.08, 0.08, 0.04]
    )
    noise[:, 0] = 0
    return (boxes[:, None] + noise).flatten(0, 1)


def grid_of(boxes: Tensor) -> Tensor:
    """(N, 4, 7, 2), the samples of `rotated_grid_pool` in the format of `grid_sample`."""
    x, y, length, width, yaw = boxes.T[..., None, None]
    along = length * torch.linspace(0.5, -0.5, COLUMNS)
    across = width * torch.linspace(-0.5, 0.5, ROWS)[:, None]
    u = (x + along * yaw.cos() - across * yaw.sin() - ORIGIN[0]) / CELL
    v = (y + along * yaw.sin() + across * yaw.cos() - ORIGIN[1]) / CELL
    return torch.stack([2 * u / (WIDTH - 1) - 1, 2 * v / (HEIGHT - 1) - 1], -1)


def expanded(planes: Tensor, boxes: Tensor) -> Tensor:
    """As the papers' code: (N, C, 4, 7), a map for each box."""
    maps = planes.expand(len(boxes), -1, -1, -1)
    return F.grid_sample(maps, grid_of(boxes), align_corners=True)


def stacked(planes: Tensor, boxes: Tensor) -> Tensor:
    """(N, C, 4, 7) from one map and one tall grid."""
    tall = F.grid_sample(planes, grid_of(boxes).reshape(1, -1, COLUMNS, 2), align_corners=True)
    return tall.reshape(CHANNELS, len(boxes), ROWS, COLUMNS).transpose(0, 1)


def floor(bev: Tensor, boxes: Tensor, repeats: int) -> tuple[float, float]:
    """(MB, ms): each box's pixels read and its result written, at the speed of reading the map."""
    grid = reference.Grid(ROWS, COLUMNS, 0, *ORIGIN, CELL, 0.0)
    index = torch.zeros(len(boxes), dtype=torch.int64)
    pixels, _ = reference.taps(boxes, index, None, (HEIGHT, WIDTH), grid)
    touched = sum(len(p.unique()) for p in pixels)
    moved = (touched + len(boxes) * ROWS * COLUMNS) * CHANNELS * 4
    once = take_turns({"sum": bev.sum}, repeats)["sum"]
    return moved / 1e6, once * moved / (bev.numel() * 4)


def measure(threads: int, boxes: Tensor, repeats: int, copies: bool) -> dict[str, float]:
    """Milliseconds by name at one number of threads."""
    torch.set_num_threads(threads)
    planes = torch.randn(1, CHANNELS, HEIGHT, WIDTH)
    bev = planes.contiguous(memory_format=torch.channels_last)
    index = torch.zeros(len(boxes), dtype=torch.int64)
    leaf, size = boxes.clone().requires_grad_(), ROWS * COLUMNS * CHANNELS
    grad = torch.randn(len(boxes), CHANNELS, ROWS, COLUMNS)
    x, weight = torch.randn(len(boxes), size), torch.randn(1024, size)

    def ours(maps: Tensor, at: Tensor, **more: int) -> Tensor:
        return rotated_grid_pool(maps, at, index, (ROWS, COLUMNS), **WHERE, **more)

    def slopes(pool: Callable[[Tensor, Tensor], Tensor], maps: Tensor) -> Tensor:
        return torch.autograd.grad(pool(maps, leaf), leaf, grad)[0]

    def both(pool: Callable[[Tensor, Tensor], Tensor], maps: Tensor) -> tuple[Tensor, ...]:
        inputs = (maps.detach().requires_grad_(), leaf)
        return torch.autograd.grad(pool(*inputs), inputs, grad)

    def score_matching() -> Tensor:
        """The gradient to the features of a function of the gradient to the boxes."""
        g = grad.clone().requires_grad_()
        (slope,) = torch.autograd.grad(ours(bev, leaf), leaf, g, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), g)[0]

    candidates = {
        "forward": lambda: ours(bev, boxes),
        "forward, means of 2 x 2 samples per bin": lambda: ours(bev, boxes, samples_per_bin=2),
        "forward, planes (NCHW)": lambda: ours(planes, boxes),
        "forward + box gradient": lambda: slopes(ours, bev),
        "forward + both gradients": lambda: both(ours, bev),
        "box gradient, and back through it": score_matching,
        "matrix product": lambda: F.linear(x, weight),
        "grid_sample expanded, forward": lambda: expanded(planes, boxes),
        "grid_sample expanded, + box gradient": lambda: slopes(expanded, planes),
        "grid_sample stacked, forward": lambda: stacked(planes, boxes),
        "grid_sample stacked, + box gradient": lambda: slopes(stacked, planes),
        "grid_sample stacked, + both gradients": lambda: both(stacked, planes),
    }
    if copies:
        candidates["grid_sample expanded, + both gradients"] = lambda: both(expanded, planes)
    try:
        from mmcv.ops import roi_align_rotated
    except ImportError:
        print("mmcv is not installed: no comparison with roi_align_rotated")
    else:
        centre = (boxes[:, :2] - torch.tensor(ORIGIN)) / CELL
        rois = torch.cat([index[:, None], centre, boxes[:, 2:4] / CELL, boxes[:, 4:]], 1)
        candidates["mmcv roi_align_rotated, forward"] = lambda: roi_align_rotated(
            planes, rois, (ROWS, COLUMNS), 1.0, 1, True, False
        )
    with torch.no_grad():
        moved, least = floor(bev, boxes, repeats)
    found = take_turns(candidates, repeats)
    found[f"floor: {moved:.0f} MB read and written once"] = least
    return found


def main() -> None:
    """Measure at one thread and at `--threads`, print milliseconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--boxes", type=int, default=50, help="cars")
    parser.add_argument("--around", type=int, default=1, help="boxes around each car")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--copies", action="store_true", help="the gradient to all copies too")
    args = parser.parse_args()

    boxes = cars(args.boxes, args.around)
    print(f"backend on cpu: {backend_info()['cpu']}")
    print(f"{len(boxes)} boxes, {CHANNELS} channels, {ROWS}x{COLUMNS}, {HEIGHT}x{WIDTH} map")
    one = measure(1, boxes, args.repeats, args.copies)
    many = measure(args.threads, boxes, args.repeats, args.copies)
    rival, product = many["grid_sample stacked, forward"], many["matrix product"]
    print(f"{'':44}{'1 thread':>10}{f'{args.threads} threads':>12}{'speed-up':>10}", end="")
    print(f"{'/ stacked':>11}{'/ product':>11}")
    for name, ms in many.items():
        print(f"{name:44}{one[name]:8.2f}ms{ms:10.2f}ms{one[name] / ms:9.2f}x", end="")
        print(f"{ms / rival:11.3f}{ms / product:11.3f}")


if __name__ == "__main__":
    main()
