"""The Triton kernels of the operators beside the float64 reference on the CPU, for `gpu.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_ops import prroi_pool_levels
from ebm_ops.rotated_grid_pool import reference as rotated_reference

ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-4}


class Check(NamedTuple):
    """A comparison: right if the error is at most what is allowed, and the bits are the same."""

    name: str
    error: float
    allowed: float
    same_bits: bool = True
    """In a second run."""


class Setting(NamedTuple):
    """Where it runs, and how large the inputs are."""

    device: torch.device
    tiny: bool


def error_of(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest number that is wanted."""
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-300))


def largest(errors: Iterable[float]) -> float:
    """The largest of some errors; NaN if one is, which Python's `max` may lose."""
    return float(torch.tensor(list(errors)).max())


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether all are equal, bit for bit."""
    return all(map(torch.equal, first, second))


def check_pooling(setting: Setting) -> Iterator[Check]:
    """Precise RoI pooling from one map and from two, and its gradients."""
    for levels in (1, 2):
        for dtype in (torch.float64, torch.float32):
            yield from _check_pooling(setting, levels, dtype)
        yield _check_buffers(setting, levels)


def check_rotated(setting: Setting) -> Iterator[Check]:
    """Pooling on rotated grids, and its gradients."""
    for samples in (0, 2):
        for dtype in (torch.float64, torch.float32):
            yield from _check_rotated(setting, samples, dtype)


class _Pooling:
    """Maps, boxes and levels, and what the reference makes of them."""

    def __init__(self, setting: Setting, levels: int, dtype: torch.dtype, maps_in: torch.dtype):
        count, channels, self.size = (4, 2, (1, 2)) if setting.tiny else (200, 70, (7, 7))
        rows, columns = (4, 5) if setting.tiny else (50, 76)
        self.scales = [1.0, 0.5][:levels]
        maps = [torch.randn(2, channels, rows // k, columns // k) for k in range(1, levels + 1)]
        self.places = [side for each in maps for side in each.shape[2:]]
        to = partial(torch.Tensor.to, device=setting.device)
        self.maps = [to(x, dtype=maps_in) for x in maps]
        self.rois = to(_boxes_in_cells(count, rows, columns), dtype=dtype)
        self.levels = to(torch.arange(count) % levels)
        self.grad = to(torch.randn(count, channels, *self.size), dtype=dtype)
        # The reference reads the same rounded numbers.
        inputs = [t.cpu().double().requires_grad_() for t in (self.rois, *self.maps)]
        self.values = prroi_pool_levels(
            inputs[1:], inputs[0], self.levels.cpu(), self.size, self.scales, "reference"
        )
        self.by_rois, *self.by_maps = torch.autograd.grad(
            self.values, inputs, self.grad.cpu().double()
        )


def _boxes_in_cells(count: int, rows: int, columns: int) -> Tensor:
    """(count, 5) RoIs on two images: 0.3 cells to the whole map, some leaving it."""
    span = torch.tensor([columns, rows])
    centre = torch.rand(count, 2) * span
    side = 0.3 * ((span + 1) / 0.3) ** torch.rand(count, 2)
    images = torch.randint(2, (count, 1)).float()
    return torch.cat([images, centre - side / 2, centre + side / 2], 1)


def _check_pooling(setting: Setting, levels: int, dtype: torch.dtype) -> Iterator[Check]:
    from ebm_ops.prroi_pool import triton

    p = _Pooling(setting, levels, dtype, dtype)
    where = p.rois, p.levels
    values = partial(triton.forward_levels, p.maps, *where, *p.size, p.scales)
    by_rois = partial(triton.grad_rois_levels, p.grad, p.maps, *where, p.scales)
    by_maps = partial(triton.grad_features_levels, p.grad, *where, 2, p.places, p.scales)
    name = f"prroi_pool, {levels} map(s), {str(dtype).removeprefix('torch.')}"
    for what, run, wanted in (
        ("values", lambda: [values()], [p.values]),
        ("by boxes", lambda: [by_rois()], [p.by_rois]),
        ("by maps", by_maps, p.by_maps),
    ):
        yield _compared(f"{name}: {what}", run, wanted, ALLOWED[dtype])


def _check_buffers(setting: Setting, levels: int) -> Check:
    from ebm_ops.prroi_pool import triton_into

    p = _Pooling(setting, levels, torch.float32, torch.bfloat16)
    count, channels, height, width = p.grad.shape
    values = p.grad.new_empty(count, height, width, channels)
    shares = p.grad.new_empty(count, height * width, 5)
    grad = p.grad.permute(0, 2, 3, 1).contiguous()

    def write() -> list[Tensor]:
        triton_into.pool_into(values, p.maps, p.rois, p.levels, p.scales)
        triton_into.grad_rois_into(shares, grad, p.maps, p.rois, p.levels, p.scales)
        return [values.permute(0, 3, 1, 2), shares.sum(1)]

    name = f"prroi_pool, {levels} map(s) in bfloat16, into buffers"
    return _compared(name, write, [p.values, p.by_rois], ALLOWED[torch.float32])


def _check_rotated(setting: Setting, samples: int, dtype: torch.dtype) -> Iterator[Check]:
    from ebm_ops.rotated_grid_pool import triton

    count, channels, bins = (3, 2, 1) if setting.tiny else (200, 70, 4)
    rows, columns = (4, 5) if setting.tiny else (200, 176)
    grid = rotated_reference.Grid(bins, 2, samples, 0.0, 0.0, 0.4, 0.06)
    span = torch.tensor([0.4 * columns, 0.4 * rows, 4.0, 2.0, 6.0])
    numbers = (
        torch.randn(2, channels, rows, columns),
        torch.rand(count, 5) * span + 0.1,
        torch.randn(count, channels, grid.rows, grid.columns),
    )
    images = torch.arange(count) % 2
    here = [x.to(setting.device, dtype) for x in numbers]
    name = f"rotated_grid_pool, {samples} samples, {str(dtype).removeprefix('torch.')}"
    for what, kernel in (
        ("values", "forward"),
        ("by boxes", "grad_boxes"),
        ("by maps", "grad_bev"),
    ):
        calls = []
        for bev, boxes, grad in (here, [x.to(dtype).double() for x in numbers]):
            index = images.to(bev.device)
            calls.append(
                {
                    "forward": (bev, boxes, index, None, grid),
                    "grad_boxes": (grad, bev, boxes, index, None, grid),
                    "grad_bev": (grad, boxes, index, None, (2, rows, columns), grid),
                }[kernel]
            )
        run = partial(getattr(triton, kernel), *calls[0])
        wanted = getattr(rotated_reference, kernel)(*calls[1])
        yield _compared(f"{name}: {what}", lambda run=run: [run()], [wanted], ALLOWED[dtype])


def _compared(
    name: str, run: Callable[[], Sequence[Tensor]], wanted: Sequence[Tensor], allowed: float
) -> Check:
    first = [x.clone() for x in run()]
    return Check(name, largest(map(error_of, first, wanted)), allowed, same(run(), first))
