"""Pooling on rotated grids: bilinear samples of a bird's-eye-view map inside a box, with gradients.

`operators.py` has the torch operators, their derivatives and their registration by device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ebm_ops import backends
from ebm_ops.rotated_grid_pool import operators, reference
from ebm_ops.rotated_grid_pool.reference import Grid


def rotated_grid_pool(
    bev: Tensor,
    boxes: Tensor,
    batch_index: Tensor,
    grid_size: tuple[int, int] = (4, 7),
    *,
    origin: tuple[float, float],
    cell_size: float,
    pixel_offset: float = 0.0,
    samples_per_bin: int = 0,
    backend: str = "auto",
    validate: bool = True,
) -> Tensor:
    """Sample a bird's-eye-view map on a grid that lies in each box and rotates with it.

    Output `(ia, ib)` of an `(A, B)` grid is a bilinear sample at

        p = 1/2 - ib / (B - 1)   (front to rear)        q = -1/2 + ia / (A - 1)   (right to left)
        X = x + p l cos(yaw) - q w sin(yaw)             u = (X - x0) / cell_size - pixel_offset
        Y = y + p l sin(yaw) + q w cos(yaw)             v = (Y - y0) / cell_size - pixel_offset

    with `u` along the columns and `v` along the rows of the map, whose nodes are at integers and
    which is zero outside. Each output is one sample, and the outer samples lie on the edges of the
    box. (If `A` or `B` is 1, `q` or `p` is 0.) Each sample equals
    `F.grid_sample(align_corners=True, padding_mode="zeros")`
    at `(2 u / (W - 1) - 1, 2 v / (H - 1) - 1)`. Source: Gustafsson et al., CVPRW 2021,
    section 3.2: its grid and its order of samples, with `yaw = -rotation_y - pi/2`. In the
    flattened result, channel `c` of output `(ia, ib)` is feature `c A B + ia B + ib`.

    With `samples_per_bin = n > 0` the box is divided into `A x B` bins. An output is then the mean
    of `n x n` samples at the centres of equal parts of the bin, as in rotated RoIAlign, except that
    the map is zero outside here too.

    The interpolant has kinks where `u` or `v` is an integer: there the derivatives are those
    towards larger `u` and `v`. Second derivatives are those between the kinks.

    Every box has a result, as do empty inputs:

    =====================================  ====================================================
    no boxes, or an empty map              (0, C, A, B), or zeros
    zero length or width                   all samples on a line or a point; gradients as usual
    negative length or width               the samples in mirrored order
    a coordinate is NaN or infinite        zeros; zero gradient to box and map
    partly outside the map                 samples a cell or more outside are zero
    outside the map, even by an overflow   zeros; zero gradient
    =====================================  ====================================================

    Args:
        bev: (B, C, H, W), floating; rows along y, columns along x. A map in
            `memory_format=torch.channels_last` is not copied; any other layout is converted once
            per call, whatever the number of boxes.
        boxes: (N, 5), floating: `x, y, l, w, yaw`, centre and sides in metres, yaw in radians from
            x to y (mmdet3d: columns 0, 1, 3, 4, 6 of a `LiDARInstance3DBoxes`).
        batch_index: (N,), integers: which map each box lies on.
        grid_size: `(A, B)`, outputs across the width and along the length.
        origin: `(x0, y0)` in metres, the position of pixel (0, 0) if `pixel_offset` is 0.
        cell_size: metres per pixel.
        pixel_offset: in pixels, subtracted from `u` and `v`: pixel `i` stands for the position
            `x0 + (i + pixel_offset) * cell_size`. Take voxels of 0.16 m, stride 2, hence
            `cell_size = 0.32`, `x0 = 0`, and a sample at `X = 0.416`:

            - 0 (the paper's convention) samples at `u = 0.416 / 0.32 = 1.3`, that is
              `0.7 F[1] + 0.3 F[2]`; pixel 1 stands for 0.32 m.
            - 0.25 samples at `u = 1.3 - 0.25 = 1.05`, that is `0.95 F[1] + 0.05 F[2]`; pixel 1
              stands for 0.40 m. That is the centre of voxel 2 (0.32 m to 0.48 m), on which a 3 x 3
              convolution of stride 2 and padding 1 centres pixel 1. In general such maps have
              their pixels half a voxel further, which is `0.5 / stride` pixels.
        samples_per_bin: 0 for one sample per output, on a grid that includes the edges of the box;
            n for means of n x n samples per bin.
        backend: `"auto"` (C++ on a CPU, Triton on a GPU, else the reference), or one of `"cpp"`,
            `"triton"`, `"reference"` to require that one.
        validate: on a GPU, wait for the device and check the batch index. False: the caller has
            done so, and a box with an index outside `0..B - 1` counts as one that is not finite. On
            a CPU the check costs nothing and is always made.

    Returns:
        Tensor: (N, C, A, B), contiguous, in the dtype of `bev`. float16 and bfloat16 are computed
        in float32. Differentiable with respect to `bev` and `boxes` any number of times: the
        backend computes first and second derivatives, the reference higher ones. The C++ and Triton
        kernels give the same bits in every run, for any number of threads, and the bits of a box
        do not depend on the other boxes; another processor may round differently.

    Raises:
        ValueError: wrong shape, grid, origin, cell size, offset or backend, or a batch index
            outside `0..B - 1` (on a GPU, see `validate`).
        TypeError: `bev` or `boxes` are not floating, or `batch_index` does not hold integers.
        RuntimeError: the required backend is not available.
    """
    _check(bev, boxes, batch_index)
    grid = _grid(grid_size, origin, cell_size, pixel_offset, samples_per_bin)
    dtype = torch.float64 if bev.dtype == torch.float64 else torch.float32
    maps = bev.to(dtype).contiguous(memory_format=torch.channels_last)
    inputs = maps, boxes.to(dtype), batch_index.long(), None
    if backend == "reference":
        pooled = reference.forward(*inputs, grid)
    else:
        backends.require(backend, bev.device.type)
        if validate and bev.is_cuda:
            reference.check_batch_index(inputs[2], bev.shape[0])
        pooled = operators.OPS.rotated_grid_pool(*inputs, *grid)
    return pooled.to(bev.dtype)


class RotatedGridPool(nn.Module):
    """:func:`rotated_grid_pool` as a module.

    Args:
        grid_size: `(A, B)`, outputs across the width and along the length.
        origin: `(x0, y0)` in metres, the position of pixel (0, 0) if `pixel_offset` is 0.
        cell_size: metres per pixel.
        pixel_offset: in pixels, subtracted from the sampling positions; :func:`rotated_grid_pool`
            has an example in numbers.
        samples_per_bin: 0 for one sample per output, n for means of n x n samples per bin.
        backend: as in :func:`rotated_grid_pool`.
    """

    def __init__(
        self,
        grid_size: tuple[int, int] = (4, 7),
        *,
        origin: tuple[float, float],
        cell_size: float,
        pixel_offset: float = 0.0,
        samples_per_bin: int = 0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        grid = _grid(grid_size, origin, cell_size, pixel_offset, samples_per_bin)
        self.grid_size = grid.rows, grid.columns
        self.origin = grid.x0, grid.y0
        self.cell_size = grid.cell_size
        self.pixel_offset = grid.pixel_offset
        self.samples_per_bin = grid.samples_per_bin
        self.backend = backend

    def forward(self, bev: Tensor, boxes: Tensor, batch_index: Tensor) -> Tensor:
        """(B, C, H, W), (N, 5) and (N,) -> (N, C, A, B)."""
        return rotated_grid_pool(
            bev,
            boxes,
            batch_index,
            self.grid_size,
            origin=self.origin,
            cell_size=self.cell_size,
            pixel_offset=self.pixel_offset,
            samples_per_bin=self.samples_per_bin,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return (
            f"grid_size={self.grid_size}, origin={self.origin}, cell_size={self.cell_size:g}, "
            f"pixel_offset={self.pixel_offset:g}, samples_per_bin={self.samples_per_bin}, "
            f"backend={self.backend!r}"
        )


def _grid(
    grid_size: tuple[int, int],
    origin: tuple[float, float],
    cell_size: float,
    pixel_offset: float,
    samples_per_bin: int,
) -> Grid:
    if len(grid_size) != 2 or any(int(v) != v or v < 1 for v in grid_size):
        raise ValueError(
            "grid_size must be two positive ints (across the width, along the length), "
            f"got {grid_size!r}"
        )
    if len(origin) != 2 or not all(abs(v) < math.inf for v in origin):
        raise ValueError(f"origin must be (x0, y0) in metres, both finite, got {origin!r}")
    if not 0 < cell_size < math.inf:
        raise ValueError(f"cell_size must be positive and finite (metres), got {cell_size!r}")
    if not abs(pixel_offset) < math.inf:
        raise ValueError(f"pixel_offset must be finite (pixels), got {pixel_offset!r}")
    if int(samples_per_bin) != samples_per_bin or samples_per_bin < 0:
        raise ValueError(
            "samples_per_bin must be 0 (points including the edges) or the number of samples along "
            f"each axis of a bin, got {samples_per_bin!r}"
        )
    counts = int(grid_size[0]), int(grid_size[1]), int(samples_per_bin)
    return Grid(*counts, *map(float, (*origin, cell_size, pixel_offset)))


def _check(bev: Tensor, boxes: Tensor, batch_index: Tensor) -> None:
    if bev.dim() != 4:
        raise ValueError(f"bev must have shape (B, C, H, W), got {tuple(bev.shape)}")
    if boxes.dim() != 2 or boxes.shape[1] != 5:
        raise ValueError(
            f"boxes must have shape (N, 5) = (x, y, l, w, yaw), got {tuple(boxes.shape)}"
        )
    if batch_index.shape != boxes.shape[:1]:
        raise ValueError(
            f"batch_index must have one entry per box, shape ({boxes.shape[0]},), "
            f"got {tuple(batch_index.shape)}"
        )
    for name, tensor in (("bev", bev), ("boxes", boxes)):
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating, got {tensor.dtype}; use {name}.float()")
    kind = batch_index.dtype
    if kind.is_floating_point or kind.is_complex or kind == torch.bool:
        raise TypeError(f"batch_index must hold integers, got {kind}; use batch_index.long()")
    for name, tensor in (("boxes", boxes), ("batch_index", batch_index)):
        if tensor.device != bev.device:
            raise ValueError(f"bev is on {bev.device} but {name} on {tensor.device}")
