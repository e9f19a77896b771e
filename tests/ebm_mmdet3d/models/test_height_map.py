"""Heights of points as seen from above, and how the head reads them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmdet3d.registry import MODELS
from mmengine.registry import init_default_scope

from ebm_mmdet3d.models.height_map import height_map
from ebm_ops import rotated_grid_pool
from tests.ebm_mmdet3d.models.toys import CELL, GRID, ORIGIN, boxes, head_cfg

INDEX, LABELS = torch.tensor([0, 1, 1]), torch.tensor([0, 2, 1])


def points(number=400, seed=0):
    g = torch.Generator().manual_seed(seed)
    size = torch.tensor([GRID[1] * CELL, GRID[0] * CELL, 2.0])
    low = torch.tensor([*ORIGIN, -2.0])
    return torch.cat([low + size * torch.rand(number, 3, generator=g), torch.rand(number, 1)], 1)


@pytest.mark.parametrize("pixel_offset", [0.0, 0.25])
def test_each_cell_has_the_extremes_of_its_nearest_points(pixel_offset):
    frames = [points(), points(50, 1), torch.zeros(0, 4)]
    found = height_map(frames, GRID, ORIGIN, CELL, pixel_offset)
    assert found.shape == (3, 3, *GRID)
    for b, frame in enumerate(frames):
        wanted = torch.zeros(3, *GRID)
        cells: dict[tuple[int, int], list[float]] = {}
        for x, y, z in frame[:, :3].tolist():
            column = round((x - ORIGIN[0]) / CELL - pixel_offset)
            row = round((y - ORIGIN[1]) / CELL - pixel_offset)
            if 0 <= column < GRID[1] and 0 <= row < GRID[0]:
                cells.setdefault((row, column), []).append(z)
        for (row, column), heights in cells.items():
            wanted[:, row, column] = torch.tensor([max(heights), min(heights), 1.0])
        torch.testing.assert_close(found[b], wanted)


def test_points_that_lie_nowhere_are_left_out():
    odd = torch.tensor(
        [
            [torch.nan, 0.0, 1.0],
            [1.0, torch.inf, 1.0],
            [1.0, 0.0, torch.nan],
            [1e30, 0.0, 1.0],
            [-50.0, 0.0, 1.0],
            [2.0, 0.0, -1.5],
        ]
    )
    found = height_map([odd], GRID, ORIGIN, CELL)
    assert found[0, 2].sum() == 1
    assert found[0, :2].flatten(1).sum(1).tolist() == [-1.5, -1.5]
    assert found.isfinite().all()


def make_head(**settings):
    init_default_scope("mmdet3d")
    torch.manual_seed(0)
    head = MODELS.build(head_cfg(point_heights=True, **settings))
    nn.init.normal_(head.fc_energy.weight, std=0.5)
    return head.eval()


def bound(head, reference, frames=None):
    maps = [torch.randn(2, 8, *GRID, generator=torch.Generator().manual_seed(1))]
    maps = head.with_heights(maps, frames or [points(3000), points(3000, 1)])
    return head.log_density_fn(head.prepare(maps), reference, INDEX, LABELS)


@pytest.mark.parametrize("standardize", [False, True])
def test_the_mlp_sees_heights_above_top_and_bottom(standardize):
    """Samples of (highest - top) / s_h, (lowest - bottom) / s_z and of cells with points."""
    scale = (0.5, 0.8)
    head = make_head(branch_scale=scale, standardize=standardize)
    assert head.trunk[0].in_features == 28 * (8 + 3) + 2 * 16
    box = boxes(3)
    fn = bound(head, box)
    heights = height_map([points(3000), points(3000, 1)], GRID, ORIGIN, CELL)
    assert torch.equal(fn.feats[0][:, 8:], heights), "heights stay in metres"
    bev = box[:, [0, 1, 3, 4, 6]]
    place = dict(origin=ORIGIN, cell_size=CELL, pixel_offset=0.0)
    high, low, full = rotated_grid_pool(heights, bev, INDEX, (4, 7), **place).unbind(1)
    bottom, top = box[:, 2, None, None], (box[:, 2] + box[:, 5])[:, None, None]
    wanted = torch.stack(
        [
            ((high - full * top) / scale[1]).clamp(-4, 4),
            ((low - full * bottom) / scale[0]).clamp(-4, 4),
            full,
        ],
        1,
    )
    pooled = head.pool(fn.feats, box, INDEX)
    found = pooled[:, : 28 * 11].unflatten(1, (11, 4, 7))[:, 8:]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert found[:, 2].mean() > 0.5
    assert (found[:, 0].abs() < 4).any()


def test_f_sees_a_few_centimetres_of_bottom_and_height():
    """Scene and box raised together: what the heights say stays, and z and h matter by them."""
    head = make_head(branch_scale=(0.2, 0.2))
    for branch in (head.fc_z, head.fc_h):  # the heights alone
        nn.init.zeros_(branch[2].weight)
        nn.init.zeros_(branch[2].bias)
    box, frames = boxes(3), [points(3000), points(3000, 1)]
    zero = torch.zeros(3, 1, 7)
    raised = [each + torch.tensor([0.0, 0.0, 0.7, 0.0]) for each in frames]
    up = box + torch.tensor([0, 0, 0.7, 0, 0, 0, 0])
    f = bound(head, box, frames)(zero)
    torch.testing.assert_close(bound(head, up, raised)(zero), f, atol=1e-3, rtol=1e-3)
    y = torch.zeros(3, 1, 7, requires_grad=True)
    (slope,) = torch.autograd.grad(bound(head, box, frames)(y).sum(), y)
    assert (slope[..., [2, 5]] != 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_heights_are_not_rounded_with_the_map(dtype):
    """Half precision knows a height to some centimetres, which are a `branch_scale`."""
    head = make_head()
    frames = [points(3000), points(3000, 1)]
    exact = height_map(frames, GRID, ORIGIN, CELL)
    maps = [torch.randn(2, 8, *GRID)]
    with torch.autocast("cpu", dtype=dtype):
        for given in (maps, [maps[0].to(dtype)]):
            (read,) = head.prepare(head.with_heights(given, frames))
            assert read.dtype == torch.float32
            assert torch.equal(read[:, 8:], exact)
            assert torch.equal(read[:, :8], given[0].float())


def test_maps_without_heights_and_heads_that_do_not_read_them():
    head = make_head()
    with pytest.raises(ValueError, match=r"expected \(B, 11, H, W\), 3 of them heights"):
        head.prepare([torch.zeros(2, 8, *GRID)])
    plain = MODELS.build(head_cfg())
    maps = [torch.zeros(2, 8, *GRID)]
    assert plain.with_heights(maps, [points()] * 2) is maps
    assert plain.map_channels == 8
    assert copy.deepcopy(head).map_channels == 11
