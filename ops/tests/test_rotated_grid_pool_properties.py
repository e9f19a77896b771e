"""Properties of pooling on rotated grids, besides those of every operator."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from ebm_ops import rotated_grid_pool
from operator_tester import EXACT
from property_tester import INF, backends, maps, relaxed, seeds
from rotated_boxes import GRID, WHERE, boxes_in_pixels, random_boxes

CELLS = {"origin": (0, 0), "cell_size": 1}  # boxes in pixels
samples = st.integers(0, 2)


def first_map(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int64)


def pool(bev, boxes, grid=GRID, **more):
    return rotated_grid_pool(bev, boxes, first_map(len(boxes)), grid, **{**CELLS, **more})


@relaxed
@given(seed=seeds, backend=backends, dx=st.integers(0, 4), dy=st.integers(0, 4), n=samples)
def test_moves_with_the_origin(seed, backend, dx, dy, n):
    f, boxes = maps(seed), boxes_in_pixels(seed)
    moved = torch.nn.functional.pad(f, (dx, 0, dy, 0))
    more = {"samples_per_bin": n, "backend": backend}
    found = pool(moved, boxes, origin=(-dx, -dy), **more)
    torch.testing.assert_close(found, pool(f, boxes, **more), **EXACT)


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


def test_boxes_of_the_tests_meet_the_edges():
    """The random boxes above are worth something: some samples are on the map, some are not."""
    ones = torch.ones(1, 1, 20, 24, dtype=torch.float64)
    pooled = rotated_grid_pool(ones, random_boxes(50, 0), first_map(50), **WHERE)
    assert 0.02 < (pooled == 0).double().mean() < 0.5
    assert ((pooled > 0) & (pooled < 1)).any()
