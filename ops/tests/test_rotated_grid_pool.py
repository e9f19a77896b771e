"""Values and derivatives of pooling on rotated grids against independent computations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ebm_ops import RotatedGridPool, rotated_grid_pool
from ebm_ops.rotated_grid_pool import reference
from operator_tester import HAS_CPP
from rotated_boxes import (
    GRID,
    SIZE,
    WHERE,
    away_from_kinks,
    closed_form,
    official_positions,
    problem,
    random_boxes,
    to_cells,
)
from tolerances import TOLERANCE

PLACE = (*WHERE["origin"], WHERE["cell_size"], WHERE["pixel_offset"])


def coordinate_map() -> torch.Tensor:
    """(1, 2, H, W): the position of each pixel in metres. Its interpolant is that position."""
    (x0, y0), cell, offset = WHERE["origin"], WHERE["cell_size"], WHERE["pixel_offset"]
    i, j = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in SIZE), indexing="ij")
    return torch.stack([x0 + (j + offset) * cell, y0 + (i + offset) * cell])[None]


def boxes_inside(count: int, seed: int) -> torch.Tensor:
    """Boxes of which no sample leaves the map."""
    boxes = random_boxes(count, seed, margin=-2.5)
    boxes[:, 2:4] *= 0.8
    return boxes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("grid", [GRID, (2, 2), (3, 5)])
def test_equals_grid_sample(backend, seed, grid):
    bev, boxes, index = problem(seed, count=12)
    u, v = to_cells(*official_positions(boxes, grid))
    at = torch.stack([2 * u / (SIZE[1] - 1) - 1, 2 * v / (SIZE[0] - 1) - 1], -1)
    expected = F.grid_sample(bev[index], at, align_corners=True, padding_mode="zeros")
    pooled = rotated_grid_pool(bev, boxes, index, grid, backend=backend, **WHERE)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-12)


def test_samples_lie_where_both_angle_conventions_put_them(backend):
    """The official formula in `rotation_y`, ours in mmdet3d's yaw; order c A B + ia B + ib."""
    boxes = boxes_inside(20, 0)
    pooled = rotated_grid_pool(
        coordinate_map(), boxes, torch.zeros(20, dtype=torch.int64), backend=backend, **WHERE
    )
    x, y, length, width, yaw = boxes.T[..., None, None]
    p = torch.linspace(0.5, -0.5, 7, dtype=torch.float64)  # front to rear
    q = torch.linspace(-0.5, 0.5, 4, dtype=torch.float64)[:, None]  # right to left
    ours = (
        x + p * length * yaw.cos() - q * width * yaw.sin(),
        y + p * length * yaw.sin() + q * width * yaw.cos(),
    )
    for found, official, expected in zip(pooled.unbind(1), official_positions(boxes), ours):
        torch.testing.assert_close(official, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    flat = pooled.flatten(1)
    assert torch.equal(flat[:, 1 * 28 + 2 * 7 + 5], pooled[:, 1, 2, 5])
    # A car heading along x: the first sample is its front right corner.
    car = torch.tensor([[5.0, 0.0, 4.0, 2.0, 0.0]], dtype=torch.float64)
    corner = rotated_grid_pool(
        coordinate_map(), car, torch.zeros(1, dtype=torch.int64), backend=backend, **WHERE
    )[0, :, 0, 0]
    torch.testing.assert_close(corner, corner.new_tensor([7.0, -1.0]))


@pytest.mark.parametrize("seed", range(3))
def test_derivatives_equal_closed_forms(backend, seed):
    """First and second derivatives of every output by x, y, l, w, yaw."""
    bev, boxes, _ = problem(seed, channels=2, count=1)
    box, image = away_from_kinks(boxes)[0], bev[0]
    # One copy of the box for each output, so that the gradient of the sum is all their gradients.
    outputs = torch.cartesian_prod(*map(torch.arange, (2, 4, 7)))
    copies = box.repeat(len(outputs), 1).requires_grad_()
    index = torch.zeros(len(outputs), dtype=torch.int64)
    pooled = rotated_grid_pool(bev, copies, index, backend=backend, **WHERE)
    values = pooled[(torch.arange(len(outputs)), *outputs.T)]
    (gradient,) = torch.autograd.grad(values.sum(), copies, create_graph=True)
    rows = [torch.autograd.grad(g.sum(), copies, retain_graph=True)[0] for g in gradient.T]
    hessian = torch.stack(rows, 1)
    for n, (c, ia, ib) in enumerate(outputs.tolist()):
        expected = closed_form(image, box, 0.5 - ib / 6, ia / 3 - 0.5)
        for a, b in zip((values, gradient, hessian), expected):
            torch.testing.assert_close(a[n], b[c], rtol=1e-9, atol=1e-10)


def test_derivatives_at_a_kink_are_those_towards_larger_coordinates(backend):
    """On a node the interpolant of |u - 5| climbs on both sides."""
    columns = torch.arange(11, dtype=torch.float64)
    bev = (columns - 5).abs().expand(1, 1, 11, 11)
    box = torch.tensor([[5.0, 5, 0, 0, 0]], dtype=torch.float64, requires_grad=True)
    pooled = rotated_grid_pool(
        bev, box, torch.tensor([0]), (1, 1), origin=(0, 0), cell_size=1, backend=backend
    )
    (slope,) = torch.autograd.grad(pooled.sum(), box)
    assert slope[0, :2].tolist() == [1, 0]


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_bins_are_means_of_samples_at_the_centres_of_their_parts(backend, samples):
    bev, boxes, index = problem(samples)
    arguments = {"samples_per_bin": samples, "backend": backend, **WHERE}
    fine = rotated_grid_pool(
        bev, boxes, index, (4 * samples, 7 * samples), **{**arguments, "samples_per_bin": 1}
    )
    torch.testing.assert_close(
        rotated_grid_pool(bev, boxes, index, **arguments), F.avg_pool2d(fine, samples),
        **TOLERANCE[torch.float64],
    )  # fmt: skip
    inside, first = boxes_inside(5, samples), torch.zeros(5, dtype=torch.int64)
    x, y = rotated_grid_pool(coordinate_map(), inside, first, **arguments).unbind(1)
    # The means of the samples' positions are the centres of the bins.
    p = 0.5 - (torch.arange(7) + 0.5) / 7
    q = ((torch.arange(4) + 0.5) / 4 - 0.5)[:, None]
    cx, cy, length, width, yaw = inside.T[..., None, None]
    torch.testing.assert_close(
        x, cx + p * length * yaw.cos() - q * width * yaw.sin(), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        y, cy + p * length * yaw.sin() + q * width * yaw.cos(), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("samples", [1, 2])
def test_bins_equal_rotated_roi_align_inside_the_map(backend, samples):
    ops = pytest.importorskip("mmcv.ops")
    bev, _, _ = problem(0)
    boxes, index = boxes_inside(8, 1), torch.tensor([0, 1] * 4)
    u, v = to_cells(boxes[:, 0], boxes[:, 1])
    rois = torch.stack(
        [index, u + 0.5, v + 0.5, *(boxes[:, 2:4] / WHERE["cell_size"]).T, boxes[:, 4]], 1
    )
    # Its angle turns the other way round, and its columns run from the rear to the front.
    expected = ops.roi_align_rotated(bev, rois, (4, 7), 1.0, samples, True, True).flip(3)
    pooled = rotated_grid_pool(bev, boxes, index, samples_per_bin=samples, backend=backend, **WHERE)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("samples", [0, 2])
def test_lower_precision_within_the_table(backend, dtype, samples):
    bev, boxes, index = problem(1, channels=19, dtype=dtype)
    arguments = {"samples_per_bin": samples, **WHERE}
    pooled = rotated_grid_pool(bev, boxes, index, backend=backend, **arguments)
    assert pooled.dtype == dtype
    assert pooled.is_contiguous()
    # The inputs are rounded, the computation is not.
    expected = rotated_grid_pool(
        bev.double(), boxes.double(), index, backend="reference", **arguments
    )
    torch.testing.assert_close(pooled.double(), expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "transposed"])
@pytest.mark.parametrize("samples", [0, 2])
def test_gradcheck(backend, layout, samples):
    bev, boxes, index = problem(len(layout), channels=2, count=3)
    bev = bev[..., :7, :8]
    if layout == "contiguous":
        bev = bev.contiguous()
    elif layout == "channels_last":
        bev = bev.contiguous(memory_format=torch.channels_last)
    elif layout == "transposed":
        bev, boxes = (t.mT.contiguous().mT for t in (bev, boxes))
    boxes[:, :2] = boxes[:, :2] / 3 + torch.tensor([0.3, -2.7])
    boxes = away_from_kinks(boxes, 1e-5, (max(1, samples) * 2, max(1, samples) * 3))
    assert torch.autograd.gradcheck(
        lambda m, b: rotated_grid_pool(
            m, b, index, (2, 3), samples_per_bin=samples, backend=backend, **WHERE
        ),
        (bev.requires_grad_(), boxes.requires_grad_()),
        fast_mode=layout != "contiguous",
    )


@pytest.mark.parametrize("samples", [0, 2])
def test_gradgradcheck(backend, samples):
    bev, boxes, index = problem(7, channels=2, count=3)
    bev = bev[..., :7, :8].contiguous()
    boxes[:, :2] = boxes[:, :2] / 3 + torch.tensor([0.3, -2.7])
    boxes = away_from_kinks(boxes, 1e-5, (max(1, samples) * 2, max(1, samples) * 2))
    assert torch.autograd.gradgradcheck(
        lambda m, b: rotated_grid_pool(
            m, b, index, (2, 2), samples_per_bin=samples, backend=backend, **WHERE
        ),
        (bev.requires_grad_(), boxes.requires_grad_()),
    )


def test_third_derivatives_agree():
    """Score matching trains through second derivatives; no order may be cut off silently."""
    bev, boxes, index = problem(3, channels=2, count=2)
    found = []
    for backend in ("auto", "reference"):
        w = torch.linspace(-1, 1, 2 * 2 * 2, dtype=torch.float64).requires_grad_()
        b, m = boxes.clone().requires_grad_(), bev.clone().requires_grad_()
        pooled = rotated_grid_pool(m, b, index, (2, 2), backend=backend, **WHERE)
        energy = (pooled.flatten(1).tanh() @ w).sum()
        (slope,) = torch.autograd.grad(energy, b, create_graph=True)
        (curvature,) = torch.autograd.grad(slope[:, 3].sum(), b, create_graph=True)
        third = torch.autograd.grad(curvature[:, 4].sum(), (w, m, b), create_graph=True)
        found.append([*third, *torch.autograd.grad(third[2].square().sum(), (w, m, b))])
    for a, b in zip(*found):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, **TOLERANCE[torch.float64])


def test_denoising_score_matching_reaches_map_and_head():
    """The loss holds the gradient to the boxes; its own gradients agree with the reference."""
    bev, boxes, index = problem(4, channels=5)
    found = []
    for backend in ("auto", "reference"):
        torch.manual_seed(0)
        head = torch.nn.Sequential(
            torch.nn.Linear(5 * 28, 16), torch.nn.SiLU(), torch.nn.Linear(16, 1)
        ).double()
        m, b = bev.clone().requires_grad_(), boxes.clone().requires_grad_()
        pooled = rotated_grid_pool(m, b, index, backend=backend, **WHERE)
        (score,) = torch.autograd.grad(head(pooled.flatten(1)).sum(), b, create_graph=True)
        loss = (score + 0.1).square().sum()
        # The last bias shifts f, which no score sees.
        found.append(torch.autograd.grad(loss, [m, *list(head.parameters())[:-1]]))
    for a, b in zip(*found):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, **TOLERANCE[torch.float64])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_tangent", [False, True])
def test_opcheck(dtype, with_tangent):
    bev, boxes, index = problem(0, channels=4, dtype=dtype)
    maps = bev.contiguous(memory_format=torch.channels_last)
    grad = torch.randn(6, 4, 4, 7, dtype=dtype)
    tangent = torch.randn(6, 5, dtype=dtype).requires_grad_() if with_tangent else None
    m, b, g = (t.clone().requires_grad_() for t in (maps, boxes, grad))
    ops = torch.ops.ebm_ops
    for features in (m, maps):
        torch.library.opcheck(
            ops.rotated_grid_pool.default, (features, b, index, tangent, 4, 7, 0, *PLACE)
        )
    torch.library.opcheck(
        ops.rotated_grid_pool_grad_bev.default, (g, b, index, tangent, 2, *SIZE, 0, *PLACE)
    )
    if with_tangent:  # third derivatives run on the reference, whose taps depend on the data
        m, b, g, tangent = maps, boxes, grad, tangent.detach()
    torch.library.opcheck(
        ops.rotated_grid_pool_grad_boxes.default, (g, m, b, index, tangent, 0, *PLACE)
    )


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiles_as_one_graph(compiler):
    bev, boxes, index = problem(2, dtype=torch.float32)

    def slopes(m, b, i):
        return (rotated_grid_pool(m, b, i, **WHERE) * 2).square().sum((1, 2, 3))

    compiled = torch.compile(slopes, fullgraph=True, backend=compiler, dynamic=True)
    for count in (6, 4):
        m, b = bev.clone().requires_grad_(), boxes[:count].clone().requires_grad_()
        expected, found = slopes(m, b, index[:count]), compiled(m, b, index[:count])
        torch.testing.assert_close(found, expected, **TOLERANCE[torch.float32])
        for x, y in zip(
            torch.autograd.grad(found.sum(), (m, b)), torch.autograd.grad(expected.sum(), (m, b))
        ):
            torch.testing.assert_close(x, y, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("wanted", ["bev", "boxes"])
def test_only_the_gradient_asked_for_is_computed(monkeypatch, wanted):
    bev, boxes, index = problem(0)
    (bev if wanted == "bev" else boxes).requires_grad_()
    called, ops = [], torch.ops.ebm_ops
    for name in ("rotated_grid_pool_grad_boxes", "rotated_grid_pool_grad_bev"):
        original = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *a, _f=original, _n=name: called.append(_n) or _f(*a))
    rotated_grid_pool(bev, boxes, index, **WHERE).sum().backward()
    assert called == [f"rotated_grid_pool_grad_{wanted}"]


def test_channels_last_input_is_not_copied():
    bev, boxes, index = problem(0)
    bev = bev.contiguous(memory_format=torch.channels_last)
    pooled = rotated_grid_pool(bev, boxes.requires_grad_(), index, **WHERE)
    assert any(
        saved.data_ptr() == bev.data_ptr()
        for saved in pooled.grad_fn.saved_tensors
        if saved is not None
    )


def test_autocast_and_mixed_dtypes(backend):
    bev, boxes, index = problem(0, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = rotated_grid_pool(bev, boxes, index, backend=backend, **WHERE)
        half = rotated_grid_pool(bev.bfloat16(), boxes, index, backend=backend, **WHERE)
    assert pooled.dtype == torch.float32
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(
        half.float(),
        rotated_grid_pool(bev.bfloat16().float(), boxes, index, backend=backend, **WHERE),
        **TOLERANCE[torch.bfloat16],
    )
    boxes = boxes.double().requires_grad_()
    rotated_grid_pool(bev, boxes, index.int(), backend=backend, **WHERE).sum().backward()
    assert boxes.grad.dtype == torch.float64


def test_module_equals_function():
    bev, boxes, index = problem(0)
    module = RotatedGridPool((3, 2), samples_per_bin=2, **WHERE)
    expected = rotated_grid_pool(bev, boxes, index, (3, 2), samples_per_bin=2, **WHERE)
    assert torch.equal(module(bev, boxes, index), expected)
    assert "grid_size=(3, 2), origin=(0.3, -4.0), cell_size=0.4" in repr(module)


@pytest.mark.parametrize("value", [2, -1, 2**40])
def test_bad_batch_index_is_named(backend, value):
    bev, boxes, index = problem(0)
    index[4] = value
    with pytest.raises(ValueError, match=rf"batch_index\[4\].*0\.\.1.*got {value}"):
        rotated_grid_pool(bev, boxes, index, backend=backend, **WHERE)


def test_bad_arguments_are_named():
    bev, boxes, index = problem(0)
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), got \(3, 20, 24\)"):
        rotated_grid_pool(bev[0], boxes, index, **WHERE)
    with pytest.raises(ValueError, match=r"\(N, 5\).*x, y, l, w, yaw.*got \(6, 4\)"):
        rotated_grid_pool(bev, boxes[:, 1:], index, **WHERE)
    with pytest.raises(ValueError, match=r"one entry per box, shape \(6,\), got \(5,\)"):
        rotated_grid_pool(bev, boxes, index[1:], **WHERE)
    with pytest.raises(TypeError, match=r"boxes must be floating.*boxes\.float\(\)"):
        rotated_grid_pool(bev, boxes.long(), index, **WHERE)
    with pytest.raises(TypeError, match=r"must hold integers.*batch_index\.long\(\)"):
        rotated_grid_pool(bev, boxes, index.float(), **WHERE)
    for size in ((0, 7), (7, -1), (1, 2, 3), (2.5, 2)):
        with pytest.raises(ValueError, match="grid_size must be"):
            rotated_grid_pool(bev, boxes, index, size, **WHERE)
    for bad, names in (
        ({"cell_size": 0}, "cell_size must be positive"),
        ({"cell_size": math.nan}, "cell_size must be positive"),
        ({"origin": (0, math.inf)}, "origin must be"),
        ({"origin": (0, 1, 2)}, "origin must be"),
        ({"pixel_offset": math.nan}, "pixel_offset must be finite"),
        ({"samples_per_bin": -1}, "samples_per_bin must be"),
        ({"samples_per_bin": 1.5}, "samples_per_bin must be"),
        ({"backend": "cuda"}, "backend must be"),
    ):
        with pytest.raises(ValueError, match=names):
            rotated_grid_pool(bev, boxes, index, **{**WHERE, **bad})
    with pytest.raises(RuntimeError, match="serves cuda tensors, got cpu"):
        rotated_grid_pool(bev, boxes, index, backend="triton", **WHERE)


@pytest.mark.skipif(not HAS_CPP, reason="no C++ backend")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 7, 16, 17, 40, 64, 96, 150])
def test_backends_agree(channels, dtype):
    """Values, first and second derivatives: kernels, and the reference's closed forms and autograd.

    Boxes are close to none of the kinks, where one rounding or another decides.
    """
    bev, boxes, index = problem(channels, channels, count=12, dtype=dtype)
    boxes = away_from_kinks(boxes, 1e-4)
    grad, tangent = torch.randn(12, channels, 4, 7, dtype=dtype), torch.randn(12, 5, dtype=dtype)
    found = []
    for backend in ("cpp", "reference"):
        m, b, g = (t.clone().requires_grad_() for t in (bev, boxes, grad))
        pooled = rotated_grid_pool(m, b, index, backend=backend, **WHERE)
        by_m, by_b = torch.autograd.grad(pooled, (m, b), g, create_graph=True)
        second = torch.autograd.grad(by_b, (g, m, b), tangent)
        found.append((pooled, by_m, by_b, *second))
    # What serves where there is no compiler.
    maps, size = bev.contiguous(memory_format=torch.channels_last), (2, *SIZE)
    grid = reference.Grid(*GRID, 0, *PLACE)
    found.append(
        (
            reference.forward(maps, boxes, index, None, grid),
            reference.grad_bev(grad, boxes, index, None, size, grid),
            reference.grad_boxes(grad, maps, boxes, index, None, grid),
            reference.forward(maps, boxes, index, tangent, grid),
            reference.grad_bev(grad, boxes, index, tangent, size, grid),
            reference.grad_boxes(grad, maps, boxes, index, tangent, grid),
        )
    )
    for other in found[1:]:
        for a, b in zip(found[0], other):
            # Sums of many terms: the tolerance counts against the largest of them.
            scale = float(b.detach().abs().max().clamp(min=1))
            torch.testing.assert_close(a / scale, b / scale, **TOLERANCE[dtype])


def test_reference_in_several_parts(monkeypatch):
    bev, boxes, index = problem(5, count=9)
    grid = reference.Grid(*GRID, 0, *PLACE)
    grad = torch.randn(9, 3, *GRID, dtype=torch.float64)

    def everything():
        return (
            reference.forward(bev, boxes, index, boxes, grid),
            reference.grad_boxes(grad, bev, boxes, index, None, grid),
            reference.grad_bev(grad, boxes, index, boxes, (2, *SIZE), grid),
        )

    whole = everything()
    monkeypatch.setattr(reference, "_MAX_VALUES", 1000)
    for a, b in zip(everything(), whole):
        torch.testing.assert_close(a, b, **TOLERANCE[torch.float64])
