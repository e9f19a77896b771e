"""SASSDAuxiliaryHead: interpolation and targets against plain loops, and the loss."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from ebm_mmdet3d.models import SASSDAuxiliaryHead
from ebm_mmdet3d.models.sassd.auxiliary_head import PointLevel, interpolate_nearest
from tests.ebm_mmdet3d.models.sassd_toys import CARS
from tests.tolerances import TOLERANCE

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]


def level(n: int = 30, channels: int = 4, frames: int = 2, seed: int = 0) -> PointLevel:
    g = torch.Generator().manual_seed(seed)
    return PointLevel(
        torch.randn(n, channels, generator=g),
        torch.rand(n, 3, generator=g) * 4,
        torch.randint(0, frames, (n,), generator=g),
    )


def points(n: int = 25, frames: int = 2, seed: int = 1):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, generator=g) * 4, torch.randint(0, frames, (n,), generator=g)


def interpolate_by_loops(xyz, frame, sites):
    rows = []
    for point, b in zip(xyz, frame.tolist()):
        found = [
            (float((centre - point).norm()), i)
            for i, centre in enumerate(sites.centres)
            if sites.batch_index[i] == b
        ]
        nearest = sorted(found)[:3]
        weights = [1 / (distance + 1e-8) for distance, _ in nearest]
        row = torch.zeros(sites.features.shape[1])
        for weight, (_, i) in zip(weights, nearest):
            row = row + weight / sum(weights) * sites.features[i]
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_sites", [30, 3, 1])
def test_interpolation_equals_loops(num_sites, device):
    """Three nearest sites of the same frame, weights 1/d; fewer where there are fewer."""
    xyz, frame = points()
    sites = level(num_sites)
    out = interpolate_nearest(
        xyz.to(device), frame.to(device), PointLevel(*(t.to(device) for t in sites))
    )
    torch.testing.assert_close(
        out.cpu(), interpolate_by_loops(xyz, frame, sites), **TOLERANCE[torch.float32]
    )


def test_frames_are_kept_apart():
    xyz, frame = points()
    sites = level()
    before = interpolate_nearest(xyz, frame, sites)
    # Sites of frame 1 right on the points of frame 0 change nothing in frame 0.
    near = PointLevel(
        torch.cat((sites.features, 100 + torch.randn(25, 4))),
        torch.cat((sites.centres, xyz)),
        torch.cat((sites.batch_index, torch.ones(25, dtype=torch.long))),
    )
    after = interpolate_nearest(xyz, frame, near)
    assert torch.equal(after[frame == 0], before[frame == 0])
    assert (after[frame == 1] - before[frame == 1]).abs().min() > 1


def test_a_point_on_a_site_has_its_feature_and_no_sites_give_zero():
    sites = level(frames=1)
    on_site = interpolate_nearest(sites.centres, sites.batch_index, sites)
    torch.testing.assert_close(on_site, sites.features, rtol=1e-3, atol=1e-3)
    other = interpolate_nearest(sites.centres, sites.batch_index + 1, sites)
    assert not other.any()


def test_interpolation_trains_the_features():
    xyz, frame = points()
    sites = level()
    features = sites.features.double().requires_grad_()
    weights = torch.randn(25, 4)

    def value(f):
        return (interpolate_nearest(xyz, frame, sites._replace(features=f)) * weights).sum()

    (grad,) = torch.autograd.grad(value(features), features)
    (expected,) = torch.autograd.grad(
        (interpolate_by_loops(xyz, frame, sites._replace(features=features)) * weights).sum(),
        features,
    )
    torch.testing.assert_close(grad, expected, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_sites_lie_in_the_centres_of_their_voxels(stride):
    """centre = (index + 1/2) * stride * voxel + origin, and indices are (b, z, y, x)."""
    tensor = SimpleNamespace(
        features=torch.zeros(2, 1), indices=torch.tensor([[0, 1, 2, 3], [1, 0, 0, 0]])
    )
    found = PointLevel.from_sparse(tensor, stride, [0.05, 0.05, 0.1], [0.0, -40.0, -3.0])
    x, y, z = (3.5 * 0.05 * stride, 2.5 * 0.05 * stride - 40, 1.5 * 0.1 * stride - 3)
    torch.testing.assert_close(found.centres[0], torch.tensor([x, y, z]))
    assert found.batch_index.tolist() == [0, 1]


@pytest.mark.parametrize("device", DEVICES)
def test_targets_equal_loops(device):
    """Foreground is inside a box; the offset is from the centre at z + h/2."""
    g = torch.Generator().manual_seed(4)
    xyz = torch.rand(400, 3, generator=g) * torch.tensor([10.0, 8.0, 2.5])
    xyz = xyz + torch.tensor([1.0, -4.5, -2.0])
    frame = torch.randint(0, 3, (400,), generator=g)
    gt = [CARS, CARS[:0], CARS[1:]]
    foreground, offsets = SASSDAuxiliaryHead.targets(
        xyz.to(device), frame.to(device), [boxes.to(device) for boxes in gt]
    )
    inside_any = 0
    for i, (point, b) in enumerate(zip(xyz.tolist(), frame.tolist())):
        expected = torch.zeros(3)
        inside = False
        for x, y, z, length, width, height, yaw in gt[b].tolist():
            dx, dy, dz = point[0] - x, point[1] - y, point[2] - (z + height / 2)
            along = dx * math.cos(yaw) + dy * math.sin(yaw)
            across = -dx * math.sin(yaw) + dy * math.cos(yaw)
            if abs(along) < length / 2 and abs(across) < width / 2 and abs(dz) < height / 2:
                expected, inside = torch.tensor([dx, dy, dz]), True
                break
        assert bool(foreground[i]) == inside
        torch.testing.assert_close(offsets[i].cpu(), expected, **TOLERANCE[torch.float32])
        inside_any += inside
    assert inside_any > 20


def test_loss_is_normalised_by_foreground_and_frames_and_masked():
    torch.manual_seed(0)
    head = SASSDAuxiliaryHead(in_channels=4, hidden_channels=6)
    xyz, frame = points(40)
    xyz = xyz + torch.tensor([2.0, 0.0, -2.5])
    gt = [CARS, CARS[1:]]
    sites = level()
    losses = head.loss(xyz, frame, [sites], gt)
    logits, offsets = head(xyz, frame, [sites])
    foreground, targets = head.targets(xyz, frame, gt)
    num = int(foreground.sum())
    assert 0 < num < 40
    p = logits.sigmoid()
    focal = torch.where(foreground, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
    torch.testing.assert_close(losses["loss_aux_cls"], focal.sum() / num / 2)
    d, beta = (offsets - targets).abs(), 1 / 9
    smooth = torch.where(d < beta, 0.5 * d**2 / beta, d - 0.5 * beta).sum(1)
    torch.testing.assert_close(losses["loss_aux_reg"], smooth[foreground].sum() / num / 2)


def test_loss_without_objects_and_without_points():
    head = SASSDAuxiliaryHead(in_channels=4, hidden_channels=6)
    xyz, frame = points()
    losses = head.loss(xyz, frame, [level()], [CARS[:0], CARS[:0]])
    assert losses["loss_aux_cls"] > 0
    assert losses["loss_aux_reg"] == 0
    losses = head.loss(xyz[:0], frame[:0], [], [CARS[:0], CARS[:0]])
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())
