"""What holds for pooling on rotated grids whatever the map and the boxes, and the odd boxes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm_ops import rotated_grid_pool
from operator_tester import HAS_CPP, run_python
from rotated_boxes import GRID, WHERE, problem, random_boxes
from tolerances import TOLERANCE

EXACT = TOLERANCE[torch.float64]
CELLS = {"origin": (0, 0), "cell_size": 1}  # boxes in pixels
seeds = st.integers(0, 2**31)
sides = st.integers(1, 6)
samples = st.integers(0, 2)
backends = st.sampled_from(["cpp", "reference"] if HAS_CPP else ["reference"])
relaxed = settings(max_examples=20, deadline=None)


def first_map(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int64)


def maps(seed: int, height: int = 9, width: int = 11, channels: int = 2) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, height, width, generator=g, dtype=torch.float64)


def boxes_in_pixels(seed: int, height: int = 9, width: int = 11, count: int = 4) -> torch.Tensor:
    """Boxes of all sizes and directions, their centres up to 2 pixels off the map."""
    r = torch.rand(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scale = torch.tensor([width + 3.0, height + 3.0, 9.0, 5.0, 2 * math.pi])
    return r * scale - torch.tensor([2.0, 2.0, -0.2, -0.2, math.pi])


def pool(bev, boxes, grid=GRID, **more):
    return rotated_grid_pool(bev, boxes, first_map(len(boxes)), grid, **{**CELLS, **more})


@relaxed
@given(seed=seeds, a=sides, b=sides, n=samples, backend=backends, factor=st.floats(-3, 3))
def test_linear_in_the_map(seed, a, b, n, backend, factor):
    f, g, boxes = maps(seed), maps(seed + 1), boxes_in_pixels(seed)
    more = {"samples_per_bin": n, "backend": backend}
    both = pool(factor * f + g, boxes, (a, b), **more)
    apart = factor * pool(f, boxes, (a, b), **more) + pool(g, boxes, (a, b), **more)
    torch.testing.assert_close(both, apart, **EXACT)


@relaxed
@given(seed=seeds, n=samples, backend=backends)
def test_gradients_are_those_of_a_pairing(seed, n, backend):
    """`<g, pool(f)> = <pool^T(g), f>`."""
    f, boxes = maps(seed).requires_grad_(), boxes_in_pixels(seed)
    pooled = pool(f, boxes, samples_per_bin=n, backend=backend)
    g = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(seed)).double()
    (by_f,) = torch.autograd.grad(pooled, f, g)
    torch.testing.assert_close((g * pooled).sum(), (by_f * f).sum(), **EXACT)


@relaxed
@given(seed=seeds, backend=backends, dx=st.integers(0, 4), dy=st.integers(0, 4), n=samples)
def test_moves_with_the_map(seed, backend, dx, dy, n):
    f, boxes = maps(seed), boxes_in_pixels(seed)
    moved = torch.nn.functional.pad(f, (dx, 0, dy, 0))
    more = {"samples_per_bin": n, "backend": backend}
    expected = pool(f, boxes, **more)
    shift = torch.tensor([dx, dy, 0, 0, 0])
    torch.testing.assert_close(pool(moved, boxes + shift, **more), expected, **EXACT)
    by_origin = pool(moved, boxes, origin=(-dx, -dy), **more)
    torch.testing.assert_close(by_origin, expected, **EXACT)


@relaxed
@given(seed=seeds, backend=backends, height=st.integers(1, 9), width=st.integers(1, 9), n=samples)
def test_turns_with_the_map(seed, backend, height, width, n):
    """A quarter turn of map and box about the map's centre changes no sample."""
    f, boxes = maps(seed, height, width), boxes_in_pixels(seed, height, width)
    more = {"samples_per_bin": n, "backend": backend}
    x, y, length, wide, yaw = boxes.T
    # Row i, column j goes to row j, column height - 1 - i: x towards y.
    turned = f.flip(2).mT
    box = torch.stack([height - 1 - y, x, length, wide, yaw + math.pi / 2], 1)
    torch.testing.assert_close(pool(turned, box, **more), pool(f, boxes, **more), **EXACT)


@relaxed
@given(seed=seeds, backend=backends, n=samples)
def test_mirrors_with_the_map(seed, backend, n):
    """Across the x axis: left becomes right, so the rows of the grid change places."""
    f, boxes = maps(seed), boxes_in_pixels(seed)
    more = {"samples_per_bin": n, "backend": backend}
    x, y, length, wide, yaw = boxes.T
    mirrored = torch.stack([x, f.shape[2] - 1 - y, length, wide, -yaw], 1)
    found = pool(f.flip(2), mirrored, **more)
    torch.testing.assert_close(found, pool(f, boxes, **more).flip(2), **EXACT)


@relaxed
@given(seed=seeds, backend=backends, n=samples, turns=st.integers(-50, 50))
def test_half_a_turn_reverses_the_samples_and_a_whole_one_does_nothing(seed, backend, n, turns):
    f, boxes = maps(seed), boxes_in_pixels(seed)
    more = {"samples_per_bin": n, "backend": backend}
    expected = pool(f, boxes, **more)
    turn = torch.tensor([0, 0, 0, 0, math.pi], dtype=torch.float64)
    half = pool(f, boxes + turn, **more)
    torch.testing.assert_close(half, expected.flip(2, 3), **EXACT)
    whole = pool(f, boxes + 2 * turns * turn, **more)
    torch.testing.assert_close(whole, expected, **EXACT)


@relaxed
@given(seed=seeds, backend=backends, unit=st.floats(0.01, 10), offset=st.floats(-2, 2))
def test_units_and_offset(seed, backend, unit, offset):
    f, boxes = maps(seed), boxes_in_pixels(seed)
    scale = torch.tensor([unit] * 4 + [1], dtype=torch.float64)
    shift = torch.tensor([offset, offset, 0, 0, 0], dtype=torch.float64)
    found = pool(f, (boxes + shift) * scale, backend=backend, cell_size=unit, pixel_offset=offset)
    torch.testing.assert_close(found, pool(f, boxes, backend=backend), **EXACT)


NAN, INF = math.nan, math.inf
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


@pytest.mark.parametrize("name", WITHOUT_VALUE)
@pytest.mark.parametrize("n", [0, 2])
def test_boxes_off_the_map_are_zero_and_have_no_gradient(backend, name, n):
    f = maps(0).requires_grad_()
    good = (4.2, 4.3, 3, 2, 0.3)
    boxes = torch.tensor([good, WITHOUT_VALUE[name]], dtype=torch.float64, requires_grad=True)
    more = {"samples_per_bin": n, "backend": backend}
    pooled = pool(f, boxes, **more)
    assert (pooled[1] == 0).all()
    inputs = (f, boxes)
    for gradient in torch.autograd.grad(pooled[1].sum(), inputs, retain_graph=True):
        assert (gradient == 0).all()
    # No derivative of any order is hurt by them, and they leave the box beside them alone.
    (slope,) = torch.autograd.grad(pooled.square().sum(), boxes, create_graph=True)
    for second in torch.autograd.grad(slope.square().sum(), inputs):
        assert second.isfinite().all()
        assert (second != 0).any()
    assert torch.equal(pooled[:1], pool(f, boxes[:1], **more))
    assert (slope[0] != 0).any()
    assert (slope[1] == 0).all()


def test_boxes_without_extent_are_points_and_lines(backend):
    f = maps(1)
    point = torch.tensor([[4.3, 5.6, 0, 0, 2.0]], dtype=torch.float64, requires_grad=True)
    pooled = pool(f, point, backend=backend)
    a, b, (tl, tr, bl, br) = 0.3, 0.6, f[0, :, 5:7, 4:6].flatten(1).T
    expected = (1 - a) * (1 - b) * tl + a * (1 - b) * tr + (1 - a) * b * bl + a * b * br
    torch.testing.assert_close(pooled, expected[None, :, None, None].expand_as(pooled), **EXACT)
    # Its size has a gradient all the same: the way to grow again.
    (slope,) = torch.autograd.grad(pooled[0, 0, 0].sum(), point)
    assert (slope[0, [0, 1, 3]] != 0).all()
    assert slope[0, 4] == 0
    line = torch.tensor([[4.3, 5.6, 3, 0, 2.0]], dtype=torch.float64)
    rows = pool(f, line, backend=backend)
    torch.testing.assert_close(rows, rows[:, :, :1].expand_as(rows), **EXACT)


def test_negative_sides_mirror_the_order(backend):
    f, boxes = maps(2), boxes_in_pixels(2)
    for column, axis in ((2, 3), (3, 2)):
        negative = boxes.clone()
        negative[:, column] *= -1
        torch.testing.assert_close(
            pool(f, negative, backend=backend), pool(f, boxes, backend=backend).flip(axis), **EXACT
        )


def test_outside_counts_as_zero(backend):
    """A map of ones: the value falls linearly to zero over one cell."""
    ones = torch.ones(1, 1, 4, 5, dtype=torch.float64)
    x = torch.tensor([-1.5, -1, -0.75, 0, 2.2, 4, 4.25, 5, 5.5], dtype=torch.float64)
    expected = torch.tensor([0, 0, 0.25, 1, 1, 1, 0.75, 0, 0], dtype=torch.float64)
    boxes = torch.zeros(len(x), 5, dtype=torch.float64)
    boxes[:, 0], boxes[:, 1] = x, 1.5
    torch.testing.assert_close(pool(ones, boxes, (1, 1), backend=backend).flatten(), expected)
    boxes[:, 0], boxes[:, 1] = 1.5, x
    expected = torch.tensor([0, 0, 0.25, 1, 1, 0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(pool(ones, boxes, (1, 1), backend=backend).flatten(), expected)


def test_what_is_not_sampled_does_not_matter(backend):
    """No zero times infinity where taps lie outside the map or in another image."""
    f = torch.full((2, 3, 6, 6), INF, dtype=torch.float64)
    f[1, :, 2:4, :2] = 1
    box = torch.tensor([[-0.5, 2.5, 0, 0, 0]], dtype=torch.float64)
    pooled = rotated_grid_pool(f, box, torch.tensor([1]), (1, 1), backend=backend, **CELLS)
    torch.testing.assert_close(pooled.flatten(), torch.full((3,), 0.5, dtype=torch.float64))


def test_nothing_to_pool(backend):
    for shape, count in (
        ((2, 3, 8, 9), 0),
        ((0, 3, 8, 9), 0),
        ((2, 3, 0, 9), 2),
        ((1, 3, 9, 0), 2),
        ((1, 0, 4, 4), 1),
    ):
        f = torch.randn(shape, requires_grad=True)
        boxes = torch.tensor([[2.0, 2, 3, 2, 1]]).repeat(count, 1).requires_grad_()
        pooled = pool(f, boxes, (3, 2), backend=backend)
        assert pooled.shape == (count, shape[1], 3, 2)
        assert (pooled == 0).all()
        slopes = torch.autograd.grad(pooled.sum(), (f, boxes), create_graph=True)
        for gradient, like in zip(slopes, (f, boxes)):
            assert gradient.shape == like.shape
            assert (gradient == 0).all()
        (second,) = torch.autograd.grad(slopes[1].square().sum(), boxes)
        assert (second == 0).all()


def _everything(channels: int, n: int = 0) -> list[torch.Tensor]:
    """Values, first and second derivatives."""
    bev, boxes, index = problem(0, channels, 40, torch.float32)
    f, b = bev.requires_grad_(), boxes.requires_grad_()
    pooled = rotated_grid_pool(f, b, index, samples_per_bin=n, **WHERE)
    g = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    by_f, by_b = torch.autograd.grad(pooled, (f, b), g, create_graph=True)
    tangent = torch.randn(b.shape, generator=torch.Generator().manual_seed(2))
    return [pooled, by_f, by_b, *torch.autograd.grad(by_b, (g, f, b), tangent)]


@pytest.mark.skipif(not HAS_CPP, reason="matrix products promise no such thing")
@pytest.mark.parametrize(("channels", "n"), [(5, 0), (64, 0), (200, 0), (70, 2)])
def test_same_bits_for_any_number_of_threads(channels, n):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = _everything(channels, n)
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            for a, b in zip(first, _everything(channels, n)):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not HAS_CPP, reason="matrix products promise no such thing")
def test_same_bits_whatever_the_other_boxes():
    f = maps(0, channels=40).float()
    boxes = boxes_in_pixels(3, count=12).float().requires_grad_()
    together = pool(f, boxes)
    (slopes,) = torch.autograd.grad(together.square().sum(), boxes)
    for n in range(12):
        alone = pool(f, boxes[n : n + 1])
        assert torch.equal(alone[0], together[n])
        (slope,) = torch.autograd.grad(alone.square().sum(), boxes)
        assert torch.equal(slope[n], slopes[n])


def test_same_bits_in_another_process():
    script = (
        "import torch; from test_rotated_grid_pool_properties import _everything;"
        "torch.set_num_threads(1);"
        "print([t.double().abs().sum().item().hex() for t in _everything(70)])"
    )
    runs = [run_python(script) for _ in range(2)]
    assert runs[0].stdout, runs[0].stderr
    assert runs[0].stdout == runs[1].stdout


def test_one_call_for_a_batch_equals_one_call_per_image(backend):
    bev, boxes, index = problem(6, count=20)
    together = rotated_grid_pool(bev, boxes, index, backend=backend, **WHERE)
    for image in range(2):
        mine = index == image
        alone = rotated_grid_pool(
            bev[image : image + 1], boxes[mine], index[mine] * 0, backend=backend, **WHERE
        )
        torch.testing.assert_close(together[mine], alone, rtol=0, atol=0)


def test_boxes_of_the_tests_meet_the_edges():
    """The random boxes above are worth something: some samples are on the map, some are not."""
    ones = torch.ones(1, 1, 20, 24, dtype=torch.float64)
    pooled = rotated_grid_pool(ones, random_boxes(50, 0), first_map(50), **WHERE)
    assert 0.02 < (pooled == 0).double().mean() < 0.5
    assert ((pooled > 0) & (pooled < 1)).any()
