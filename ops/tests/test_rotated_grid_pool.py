"""Values and derivatives of pooling on rotated grids against independent computations."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from backend_tester import BackendTester
from ebm_ops import RotatedGridPool, rotated_grid_pool
from ebm_ops.rotated_grid_pool import operators, reference
from property_tester import INF, NAN
from rotated_boxes import (
    GRID,
    SIZE,
    WHERE,
    away_from_kinks,
    boxes_in_pixels,
    closed_form,
    official_positions,
    problem,
    random_boxes,
    to_cells,
)
from tolerances import TOLERANCE

PLACE = (*WHERE["origin"], WHERE["cell_size"], WHERE["pixel_offset"])
WITHOUT_VALUE = {
    "nan centre": (NAN, 4, 3, 2, 1),
    "nan yaw": (4, 4, 3, 2, NAN),
    "all nan": (NAN,) * 5,
    "inf centre": (INF, 4, 3, 2, 1),
    "-inf length": (4, 4, -INF, 2, 1),
    "inf yaw": (4, 4, 3, 2, INF),
    "left of the map": (-9, 4, 3, 2, 1),
    "right of the map": (15, 4, 3, 2, 1),
    "above the map": (4, -7, 3, 2, 1),
    "below the map": (4, 14, 3, 2, 1),
    "one cell outside": (11, 4, 0, 0, 1),
    "far outside": (1e9, -1e9, 3, 2, 1),
    "sides that leap over the map": (4, 4, 1e9, 1e9, 0.3),
    "overflow": (1e308, -1e308, 1e308, 1e308, 1),
}


TRITON_IN_INTERPRETER = """
import torch
from ebm_ops.rotated_grid_pool import reference, triton
from tolerances import TOLERANCE

nan, inf = float("nan"), float("inf")
boxes = [[1.2, -0.3, 1.1, 0.6, 0.4], [0.1, -0.8, 2.2, 0.9, -2.0], [1.2, nan, 1, 1, 1],
         [1, 0, 1, 1, inf], [1, 0.07, -1.3, 0, 9], [1e30, 0, 1, 1, 0]]
# Not contiguous, as the index of one object's samples, which is an expanded tensor.
index = torch.tensor([1, 7, 0, 7, 1, 7, 0, 7, 1, 7, 0, 7])[::2]
for dtype, channels, samples in ((torch.float64, 3, 0), (torch.float32, 1, 3)):
    grid = reference.Grid(1, 2, samples, 0.3, -1.0, 0.4, 0.06)
    where = torch.tensor(boxes, dtype=dtype)
    bev = torch.randn(2, channels, 4, 5, dtype=dtype)
    grad = torch.randn(len(boxes), channels, 1, 2, dtype=dtype)
    for tangent in (None, torch.randn(len(boxes), 5, dtype=dtype)):
        for name, arguments in (
            ("forward", (bev, where, index, tangent, grid)),
            ("grad_boxes", (grad, bev, where, index, tangent, grid)),
            ("grad_bev", (grad, where, index, tangent, (2, 4, 5), grid)),
        ):
            found = getattr(triton, name)(*arguments)
            expected = getattr(reference, name)(*arguments)
            scale = expected.abs().max().clamp(min=1)
            assert expected.abs().max() > 0
            torch.testing.assert_close(found / scale, expected / scale, **TOLERANCE[dtype])
# A box of no image pools to zero, and nothing is read outside of the maps.
for image in (2, -1, 2**40, -(2**40)):
    nowhere = torch.full_like(index, image)
    for tangent in (None, where):
        assert not triton.forward(bev, where, nowhere, tangent, grid).any()
        assert not triton.grad_boxes(grad, bev, where, nowhere, tangent, grid).any()
        assert not triton.grad_bev(grad, where, nowhere, None, (2, 4, 5), grid).any()
for count in (0, 1):
    found = triton.forward(bev[:, :0], where[:count], index[:count], None, grid)
    assert found.shape == (count, 0, 1, 2)
    empty = grad[:count, :0], bev[:, :0], where[:count], index[:count], None, grid
    assert triton.grad_boxes(*empty).shape == (count, 5)
print("ok")
"""


class TestRotatedGridPool(BackendTester):
    name = "rotated_grid_pool"
    gradients = ("bev", "boxes")
    reference = reference
    size = GRID
    third_columns = (3, 4)
    cases: ClassVar = {
        "variant": [{"samples_per_bin": 0}, {"samples_per_bin": 2}],
        "seed": [7],
        "gradgrad_seed": [7],
        "opcheck_case": [False, True],  # with a tangent
        "bad_image": [2, -1, 2**40],
        "odd_box": list(WITHOUT_VALUE),
    }
    odd_boxes = WITHOUT_VALUE
    odd_index = r"batch_index\[4\]"
    good_box = (4.2, 4.3, 3, 2, 0.3)
    property_variants: ClassVar = [{"samples_per_bin": n} for n in range(3)]
    has_second_derivatives = True
    fast_gradcheck = ("channels_last", "strided", "transposed")
    interpreter_script = TRITON_IN_INTERPRETER
    varying: ClassVar = {"batch", "height", "width"}

    def problem(self, seed, channels=3, count=6, dtype=torch.float64):
        return problem(seed, channels, count, dtype)

    def small_problem(self, seed, size, variant):
        bev, boxes, index = problem(seed, channels=2, count=3)
        boxes[:, :2] = boxes[:, :2] / 3 + torch.tensor([0.3, -2.7])
        samples = max(1, variant["samples_per_bin"])
        boxes = away_from_kinks(boxes, 1e-5, (samples * size[0], samples * size[1]))
        return bev[..., :7, :8].contiguous(), boxes, index

    def problem_of_backends(self, seed, channels, dtype, count=12):
        bev, boxes, index = problem(seed, channels, count, dtype)
        return bev, away_from_kinks(boxes, 1e-4), index

    def pool(self, features, boxes, images, size=GRID, backend="auto", **variant):
        return rotated_grid_pool(features, boxes, images, size, backend=backend, **variant, **WHERE)

    def pool_cells(self, features, boxes, size=GRID, backend="auto", **variant):
        index = torch.zeros(len(boxes), dtype=torch.int64)
        where = {"origin": (0, 0), "cell_size": 1}
        return rotated_grid_pool(features, boxes, index, size, backend=backend, **variant, **where)

    def boxes_in_cells(self, seed, count=4):
        return boxes_in_pixels(seed, count=count)

    def moved(self, boxes, dx, dy):
        return boxes + torch.tensor([dx, dy, 0, 0, 0])

    def module(self, size):
        return (
            RotatedGridPool(size, **WHERE),
            f"grid_size={size}, origin=(0.3, -4.0), cell_size=0.4",
        )

    def call_module(self, module, inputs):
        return module(*inputs)

    def exact_values(self, inputs, **variant):
        bev, boxes, index = inputs
        return self.pool(bev.double(), boxes.double(), index, backend="reference", **variant)

    def closed_forms(self, inputs, grad, tangent):
        bev, boxes, index = inputs
        maps, size = bev.contiguous(memory_format=torch.channels_last), (2, *SIZE)
        grid = reference.Grid(*GRID, 0, *PLACE)
        return [
            reference.forward(maps, boxes, index, None, grid),
            reference.grad_bev(grad, boxes, index, None, size, grid),
            reference.grad_boxes(grad, maps, boxes, index, None, grid),
            reference.forward(maps, boxes, index, tangent, grid),
            reference.grad_bev(grad, boxes, index, tangent, size, grid),
            reference.grad_boxes(grad, maps, boxes, index, tangent, grid),
        ]

    def opcheck_calls(self, dtype, case):
        bev, boxes, index = problem(0, channels=4, dtype=dtype)
        maps = bev.contiguous(memory_format=torch.channels_last)
        grad = torch.randn(6, 4, 4, 7, dtype=dtype)
        tangent = torch.randn(6, 5, dtype=dtype).requires_grad_() if case else None
        m, b, g = (t.clone().requires_grad_() for t in (maps, boxes, grad))
        ops = torch.ops.ebm_ops
        for features in (m, maps):
            yield (
                ops.rotated_grid_pool.default,
                (features, b, index, tangent, 4, 7, 0, *PLACE),
            )
        yield (
            ops.rotated_grid_pool_grad_bev.default,
            (g, b, index, tangent, 2, *SIZE, 0, *PLACE),
        )
        if case:  # third derivatives run on the reference, whose taps depend on the data
            m, b, g, tangent = maps, boxes, grad, tangent.detach()
        yield ops.rotated_grid_pool_grad_boxes.default, (g, m, b, index, tangent, 0, *PLACE)

    def implementations(self, name):
        return {
            "registered": getattr(torch.ops.ebm_ops, name),
            "reference": operators._kernels(operators._reference("cpu"))[name],
            "triton": operators._kernels(operators._triton)[name],
        }

    def triton_kernels(self, real):
        boxes = [real, real, "*i64", "*fp64"]  # boxes, tangent, images, where
        for tangent in (False, True):
            constants = {"TANGENT": tangent, "BLOCK": 256}
            yield "_forward", [real, *boxes, real, *["i32"] * 6], constants
            yield "_grad_boxes", [real, real, *boxes, "*fp64", *["i32"] * 6], constants
            types = [real, "*fp64", "*i64", "*i64", real, *["i32"] * 2]
            yield "_grad_bev", types, constants

    def test_module_passes_its_options_on(self):
        inputs = self.problem(0)
        module = RotatedGridPool((3, 2), samples_per_bin=2, **WHERE)
        assert torch.equal(module(*inputs), self.pool(*inputs, (3, 2), samples_per_bin=2))


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


def test_denoising_score_matching_reaches_map_and_head():
    """The loss contains the gradient to the boxes; its gradients agree with the reference."""
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


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("offset", "u", "position"), [(0.0, 1.3, 0.32), (0.25, 1.05, 0.40)])
def test_pixel_offset_reads_where_the_docstring_says(offset, u, position, backend):
    """On a map of column numbers, a sample is the column `u` at which it is read."""
    columns = torch.arange(4.0, dtype=torch.float64).expand(1, 1, 4, 4)
    where = {"origin": (0.0, 0.0), "cell_size": 0.32, "pixel_offset": offset, "backend": backend}

    def read(x, bev=columns):
        point = torch.tensor([[x, 0.5, 0, 0, 0]], dtype=torch.float64)
        return rotated_grid_pool(bev, point, torch.tensor([0]), (1, 1), **where).item()

    assert read(0.416) == pytest.approx(u)
    assert read(position) == pytest.approx(1), "where pixel 1 lies"
    weights = [read(0.416, (columns == column).double()) for column in range(4)]
    assert weights == pytest.approx([0, 2 - u, u - 1, 0])


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
    ):
        with pytest.raises(ValueError, match=names):
            rotated_grid_pool(bev, boxes, index, **{**WHERE, **bad})


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
