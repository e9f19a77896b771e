"""Functions of mmcv and spconv that need CUDA are replaced, once, and correctly."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

import mmcv.ops
from mmdet3d.structures import LiDARInstance3DBoxes

import ebm_mmdet3d  # noqa: F401  makes the repairs
from ebm_mmdet3d.compat import cpu_ops
from ebm_mmdet3d.compat.without_cuda import patch_mmcv, patch_spconv
from tests.ebm_mmdet3d.models.toys import boxes
from tests.tolerances import TOLERANCE

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA has its own kernels")
FLOAT32 = TOLERANCE[torch.float32]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_importing_the_package_fills_the_gaps_wherever_they_were_imported():
    holders = {
        "three_nn": ["mmcv.ops", "mmdet3d.models.middle_encoders.sparse_encoder"],
        "three_interpolate": ["mmcv.ops", "mmdet3d.models.layers.pointnet_modules.point_fp_module"],
        "points_in_boxes_all": ["mmcv.ops", "mmdet3d.structures.bbox_3d.base_box3d"],
        "points_in_boxes_part": ["mmcv.ops", "mmdet3d.structures.bbox_3d.base_box3d"],
        "sigmoid_focal_loss": ["mmcv.ops", "mmcv.ops.focal_loss"],
    }
    for name, modules in holders.items():
        for module in modules:
            assert getattr(importlib.import_module(module), name) is getattr(cpu_ops, name)
    focal = importlib.import_module("mmdet.models.losses.focal_loss")
    assert focal._sigmoid_focal_loss is cpu_ops.sigmoid_focal_loss


def test_a_second_call_changes_nothing():
    before = mmcv.ops.three_nn
    assert patch_mmcv() == patch_spconv() == []
    assert mmcv.ops.three_nn is before


def test_nothing_is_touched_where_cuda_is_present(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(mmcv.ops, "three_nn", "the original")
    assert patch_mmcv() == patch_spconv() == []
    assert mmcv.ops.three_nn == "the original"


def test_three_nearest_neighbours():
    g = generator()
    target, source = torch.rand(2, 50, 3, generator=g), torch.rand(2, 40, 3, generator=g)
    dist, index = mmcv.ops.three_nn(target, source)
    expected, nearest = torch.cdist(target, source).topk(3, largest=False)
    assert index.dtype == torch.int32
    torch.testing.assert_close(dist, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(index.long(), nearest)


def test_neighbours_are_of_the_same_frame():
    g = generator()
    xyz, other = torch.rand(30, 3, generator=g), torch.rand(40, 3, generator=g)
    frame, of_source = torch.arange(30) % 2, torch.arange(40) % 2
    target = torch.cat((frame[:, None].float(), xyz), 1)[None]
    source = torch.cat((of_source[:, None].float(), other), 1)[None]
    dist, index = cpu_ops.three_nn(target, source)
    far = torch.cdist(xyz, other) + 1e3 * (frame[:, None] != of_source[None])
    expected, nearest = far.topk(3, largest=False)
    torch.testing.assert_close(dist[0], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(index[0].long(), nearest)


@pytest.mark.parametrize("num", [0, 1, 2])
def test_neighbours_that_do_not_exist_are_infinitely_far(num):
    dist, index = cpu_ops.three_nn(torch.rand(1, 4, 3), torch.rand(1, num, 3))
    assert torch.isfinite(dist[..., :num]).all()
    assert torch.isinf(dist[..., num:]).all()
    assert (index[..., num:] == 0).all()
    with pytest.raises(ValueError, match=r"target \(1, 4, 2\).*expected \(B, N, 3\)"):
        cpu_ops.three_nn(torch.rand(1, 4, 2), torch.rand(1, 4, 2))


def test_three_interpolate_is_the_weighted_sum_and_differentiable():
    features = torch.rand(2, 5, 7, dtype=torch.float64, requires_grad=True)
    index = torch.randint(7, (2, 6, 3), generator=generator()).int()
    weight = torch.rand(2, 6, 3, dtype=torch.float64)
    out = mmcv.ops.three_interpolate(features, index, weight)
    for b in range(2):
        for n in range(6):
            expected = sum(weight[b, n, k] * features[b, :, index[b, n, k]] for k in range(3))
            torch.testing.assert_close(out[b, :, n], expected)
    assert torch.autograd.gradcheck(
        lambda x: mmcv.ops.three_interpolate(x, index, weight), features
    )


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_sigmoid_focal_loss(reduction):
    logits = torch.randn(9, 3, generator=generator(), dtype=torch.float64, requires_grad=True)
    target, weight = torch.arange(9) % 4, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    p = logits.sigmoid()
    hit = F.one_hot(target, 4)[:, :3].bool()
    expected = -torch.where(hit, 0.25 * (1 - p) ** 2 * p.log(), 0.75 * p**2 * (1 - p).log())
    expected = expected * torch.cat((weight, torch.ones(1)))[target][:, None]
    expected = {"none": expected, "mean": expected.sum() / 9, "sum": expected.sum()}[reduction]
    loss = mmcv.ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, reduction)
    torch.testing.assert_close(loss, expected)
    assert torch.autograd.grad(loss.sum(), logits)[0].abs().sum() > 0


def inside(points, cars):
    """(M, T) by definition: coordinates in the box's own frame."""
    d = points[:, None] - cars[None, :, :3]
    c, s = cars[:, 6].cos(), cars[:, 6].sin()
    along, across = d[..., 0] * c + d[..., 1] * s, d[..., 1] * c - d[..., 0] * s
    return (
        (along.abs() < cars[:, 3] / 2)
        & (across.abs() < cars[:, 4] / 2)
        & (d[..., 2] >= 0)
        & (d[..., 2] <= cars[:, 5])
    )


def test_points_in_boxes():
    cars = boxes(6)
    cars[4] = cars[1]  # the first of equal boxes counts
    points = torch.rand(4000, 3, generator=generator()) * torch.tensor([16.0, 14, 3])
    points -= torch.tensor([0.0, 7, 2.5])
    expected = inside(points, cars)
    assert expected.sum(0).min() > 0
    structure = LiDARInstance3DBoxes(cars)
    everywhere = structure.points_in_boxes_all(points)
    assert everywhere.shape == (4000, 6)
    assert torch.equal(everywhere.bool(), expected)
    part = structure.points_in_boxes_part(points)
    first = torch.where(expected.any(1), expected.int().argmax(1), -1)
    assert part.dtype == torch.int32
    assert torch.equal(part.long(), first)
    none = LiDARInstance3DBoxes(torch.zeros(0, 7))
    assert torch.equal(none.points_in_boxes_part(points[:3]), torch.full((3,), -1).int())


@pytest.mark.parametrize("kind", ["SubMConv3d", "SparseConv3d"])
def test_sparse_convolution_and_its_gradient_equal_those_of_a_dense_one(kind):
    spconv = pytest.importorskip("spconv.pytorch")
    torch.manual_seed(0)
    stride = 1 if kind == "SubMConv3d" else 2
    sparse = getattr(spconv, kind)(3, 4, 3, stride=stride, padding=1, bias=False)
    coordinates = torch.unique(torch.randint(6, (60, 3), generator=generator()), dim=0).int()
    coordinates = torch.cat((torch.zeros(len(coordinates), 1).int(), coordinates), dim=1)
    values = torch.randn(len(coordinates), 3, requires_grad=True)
    out = sparse(spconv.SparseConvTensor(values, coordinates, [6, 6, 6], 1)).dense()

    dense_values = values.detach().clone().requires_grad_()
    zyx = coordinates[:, 1:].long()
    volume = torch.zeros(1, 6, 6, 6, 3).index_put(
        (torch.zeros(len(zyx)).long(), zyx[:, 0], zyx[:, 1], zyx[:, 2]), dense_values
    )
    # spconv keeps (out, D, H, W, in).
    weight = sparse.weight.detach().permute(0, 4, 1, 2, 3).clone().requires_grad_()
    dense = F.conv3d(volume.permute(0, 4, 1, 2, 3), weight, stride=stride, padding=1)
    if kind == "SubMConv3d":  # only where there was input
        mask = torch.zeros(1, 1, 6, 6, 6)
        mask[0, 0, zyx[:, 0], zyx[:, 1], zyx[:, 2]] = 1
        dense = dense * mask
    torch.testing.assert_close(out, dense, **FLOAT32)
    (out * dense.detach()).sum().backward()
    (dense * dense.detach()).sum().backward()
    torch.testing.assert_close(values.grad, dense_values.grad, **FLOAT32)
    torch.testing.assert_close(sparse.weight.grad.permute(0, 4, 1, 2, 3), weight.grad, **FLOAT32)


def test_sparse_convolution_of_many_sites_is_the_same_every_time():
    """spconv's own sum over neighbours loses rows when several threads share it."""
    spconv = pytest.importorskip("spconv.pytorch")
    torch.manual_seed(0)
    sparse = spconv.SubMConv3d(32, 32, 3, bias=False)
    sites = torch.nonzero(torch.rand(12, 12, 12, generator=generator()) < 0.8)
    coordinates = torch.cat((torch.zeros(len(sites), 1).long(), sites), dim=1).int()
    values = torch.randn(len(sites), 32)
    volume = torch.zeros(12, 12, 12, 32).index_put(tuple(sites.T), values)
    weight = sparse.weight.detach().permute(0, 4, 1, 2, 3)
    dense = F.conv3d(volume.permute(3, 0, 1, 2)[None], weight, padding=1)
    expected = dense[0].permute(1, 2, 3, 0)[tuple(sites.T)]
    with torch.no_grad():
        for _ in range(10):
            out = sparse(spconv.SparseConvTensor(values, coordinates, [12, 12, 12], 1))
            torch.testing.assert_close(out.features, expected, **FLOAT32)
