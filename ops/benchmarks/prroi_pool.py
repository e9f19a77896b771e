"""Time of precise RoI pooling beside `roi_align` and the matrix product that follows it.

    python ops/benchmarks/prroi_pool.py [--threads 2] [--repeats 30]

200 boxes, 256 channels, 7x7 bins, a 50x76 map (an 800 x 1216 image at stride 16), float32,
channels last as the head keeps it. Box sizes are those of the level rule: the square root of the
area is uniform in 14..28 cells, the sides within 1 : 2, positions uniform inside the map, seeded.

Targets of the project: forward <= 0.035, forward and box gradient <= 0.075 of `roi_align` forward
(sampling_ratio=2), which gives no box gradient on a CPU. That is mmcv's, whose time depends on the
flags that it was compiled with: without optimisation it is several times slower than it should be.
torchvision's stands beside it, where it is installed; its wheels are built with optimisation.

All candidates run in turns and the minimum of each counts, so that other load on the machine
affects them equally.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ebm_ops import backend_info, prroi_pool

CHANNELS, HEIGHT, WIDTH, STRIDE, BINS = 256, 50, 76, 16, 7


def level_boxes(count: int) -> Tensor:
    """(count, 5) RoIs in image units; see the module's text."""
    g = torch.Generator().manual_seed(0)
    size = 14 + 14 * torch.rand(count, generator=g)
    ratio = torch.exp((torch.rand(count, generator=g) - 0.5) * 0.69)
    sides = torch.stack((size * ratio, size / ratio), 1)
    room = torch.tensor([WIDTH, HEIGHT]) - sides
    corner = torch.rand(count, 2, generator=g) * room.clamp(min=0)
    return torch.cat((torch.zeros(count, 1), corner * STRIDE, (corner + sides) * STRIDE), 1)


def take_turns(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of each: the minimum over rounds in which all of them run."""
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(repeats + 1):  # the first round warms up, and cannot be the minimum
        for name, candidate in candidates.items():
            start = time.perf_counter()
            candidate()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def floor(features: Tensor, rois: Tensor, repeats: int) -> tuple[float, float]:
    """(MB, ms): the pixels under the boxes, read once, at the speed of reading the map."""
    sides = (rois[:, 3:] - rois[:, 1:3]) / STRIDE + 2
    read = float(sides.prod(1).sum()) * CHANNELS * 4
    once = take_turns({"sum": features.sum}, repeats)["sum"]
    return read / 1e6, once * read / (features.numel() * 4)


def measure(threads: int, count: int, repeats: int) -> dict[str, float]:
    """Milliseconds by name at one number of threads."""
    torch.set_num_threads(threads)
    rois = level_boxes(count)
    planes = torch.randn(1, CHANNELS, HEIGHT, WIDTH)
    features = planes.contiguous(memory_format=torch.channels_last)
    scale, leaf = 1 / STRIDE, rois.clone().requires_grad_()
    grad = torch.randn(count, CHANNELS, BINS, BINS)
    x, weight = torch.randn(count, CHANNELS * BINS**2), torch.randn(1024, CHANNELS * BINS**2)

    def both() -> Tensor:
        return torch.autograd.grad(prroi_pool(features, leaf, BINS, scale), leaf, grad)[0]

    def all_gradients() -> tuple[Tensor, ...]:
        inputs = (features.detach().requires_grad_(), leaf)
        return torch.autograd.grad(prroi_pool(inputs[0], leaf, BINS, scale), inputs, grad)

    candidates = {
        "forward": lambda: prroi_pool(features, rois, BINS, scale),
        "forward, planes (NCHW)": lambda: prroi_pool(planes, rois, BINS, scale),
        "forward + box gradient": both,
        "forward + both gradients": all_gradients,
        "matrix product": lambda: torch.nn.functional.linear(x, weight),
    }
    try:
        from mmcv.ops import roi_align
    except ImportError:
        print("mmcv is not installed: no comparison with roi_align")
    else:
        candidates["mmcv roi_align forward"] = lambda: roi_align(
            planes, rois, (BINS, BINS), scale, 2, "avg", True
        )
    try:
        from torchvision.ops import roi_align as torchvision_roi_align
    except (ImportError, RuntimeError):  # the latter where it was built for another torch
        print("torchvision is not installed, or not for this torch: no comparison with it")
    else:
        candidates["torchvision roi_align forward"] = lambda: torchvision_roi_align(
            planes, rois, BINS, scale, 2, aligned=True
        )
    with torch.no_grad():
        size, least = floor(features, rois, repeats)
    found = take_turns(candidates, repeats)
    found[f"floor: {size:.0f} MB of pixels read once"] = least
    return found


def main() -> None:
    """Measure at one thread and at `--threads`, print milliseconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--boxes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()

    print(f"backend on cpu: {backend_info()['cpu']}")
    print(f"{args.boxes} boxes, {CHANNELS} channels, {BINS}x{BINS} bins, {HEIGHT}x{WIDTH} map")
    one = measure(1, args.boxes, args.repeats)
    many = measure(args.threads, args.boxes, args.repeats)
    align, product = many.get("mmcv roi_align forward"), many["matrix product"]
    print(f"{'':42}{'1 thread':>10}{f'{args.threads} threads':>11}{'speed-up':>10}", end="")
    print(f"{'/ mmcv':>13}{'/ product':>11}")
    for name, ms in many.items():
        print(f"{name:42}{one[name]:8.2f}ms{ms:9.2f}ms{one[name] / ms:9.2f}x", end="")
        print(f"{ms / align:13.3f}" if align else f"{'':13}", end="")
        print(f"{ms / product:11.3f}")


if __name__ == "__main__":
    main()
