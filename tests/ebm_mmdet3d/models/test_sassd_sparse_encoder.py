"""SASSDSparseEncoder: shapes, channels, and points that share a voxel, against plain loops."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from ebm_mmdet3d.models import SASSDSparseEncoder
from tests.tolerances import TOLERANCE

SMALL = dict(
    in_channels=2,
    sparse_shape=(4, 6, 6),
    stem_channels=3,
    stage_channels=(5,),
    stage_convs=(0,),
    out_channels=2,
)
"""One stage without submanifold convolutions, so that loops can follow."""


def small_encoder(**overrides) -> SASSDSparseEncoder:
    """SMALL in eval mode, with normalisations that are not the identity."""
    torch.manual_seed(0)
    encoder = SASSDSparseEncoder(**{**SMALL, **overrides})
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return encoder.eval()


def crowded_points(n: int = 40, frames: int = 1, seed: int = 1):
    """More points than the 12 voxels of a frame, so that points share voxels."""
    g = torch.Generator().manual_seed(seed)
    voxels = torch.randint(0, 4, (12 * frames, 3), generator=g)
    voxels = torch.cat((torch.arange(frames).repeat_interleave(12)[:, None], voxels), dim=1)
    coors = voxels[torch.randint(0, len(voxels), (n,), generator=g)]
    return torch.randn(n, 2, generator=g), coors


def stem_by_loops(encoder, features, coors):
    """y_i = W_0 x_i + [i = last(v(i))] sum_{o != 0} W_o sum_{j: v(j) = v(i) + o} x_j."""
    points = {}
    for i, voxel in enumerate(coors.tolist()):
        points.setdefault(tuple(voxel), []).append(i)
    for layer in encoder.stem:
        rows = []
        for i, (b, z, y, x) in enumerate(coors.tolist()):
            total = layer.conv.weight[:, 1, 1, 1] @ features[i]
            for o in itertools.product((-1, 0, 1), repeat=3):
                if o == (0, 0, 0) or i != points[b, z, y, x][-1]:
                    continue
                for j in points.get((b, z + o[0], y + o[1], x + o[2]), []):
                    kernel = layer.conv.weight[:, o[0] + 1, o[1] + 1, o[2] + 1]
                    total = total + kernel @ features[j]
            rows.append(total)
        features = F.relu(layer.norm(torch.stack(rows)))
    return features


def normalise(dense, norm):
    """Normalisation of (B, C, D, H, W) in eval mode, and ReLU."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    return F.relu(dense * scale.view(1, -1, 1, 1, 1) + shift.view(1, -1, 1, 1, 1))


def map_by_loops(encoder, features, coors, batch_size):
    """The stem by loops, then dense convolutions on the sums over the points of a voxel."""
    features = stem_by_loops(encoder, features, coors)
    b, z, y, x = coors.unbind(1)
    dense = features.new_zeros(batch_size, *encoder.sparse_shape, features.shape[1])
    dense = dense.index_put((b, z, y, x), features, accumulate=True).permute(0, 4, 1, 2, 3)
    sites = torch.zeros(batch_size, 1, *encoder.sparse_shape)
    sites[b, 0, z, y, x] = 1
    sites = F.max_pool3d(sites, 3, 2, 1)
    conv, norm, _ = encoder.stages[0][0]
    dense = F.conv3d(dense, conv.weight.permute(0, 4, 1, 2, 3), stride=2, padding=1)
    dense = normalise(dense, norm) * sites
    linear, norm, _ = encoder.conv_out
    dense = normalise(F.conv3d(dense, linear.weight[:, :, None, None, None]), norm) * sites
    return dense.flatten(1, 2)


def test_the_papers_shapes_and_channels():
    encoder = SASSDSparseEncoder().eval()
    shape = torch.tensor([2, *encoder.sparse_shape])
    coors = (torch.rand(30, 4) * shape).long()
    with torch.no_grad():
        bev, levels = encoder(torch.randn(30, 4), coors, 2)
    assert bev.shape == (2, 320, 200, 176)
    assert [tuple(level.spatial_shape) for level in levels] == [
        (20, 800, 704),
        (10, 400, 352),
        (5, 200, 176),
    ]
    assert [level.features.shape[1] for level in levels] == [32, 64, 64]
    assert encoder.out_shape == (5, 200, 176)
    assert encoder.stride == 8


def test_the_papers_layers():
    """The kernels of the encoder's docstring, each followed by a normalisation."""
    widths = [(4, 16), (16, 16), (16, 32), (32, 32), (32, 32), (32, 64)]
    widths += [(64, 64)] * 7  # three at stride 4; down, and three at stride 8
    kernels = sum(27 * i * o for i, o in widths) + 64 * 64
    normalisations = sum(2 * o for _, o in widths) + 2 * 64
    encoder = SASSDSparseEncoder()
    assert sum(p.numel() for p in encoder.parameters()) == kernels + normalisations
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert len(norms) == len(widths) + 1
    assert {(n.eps, n.momentum) for n in norms} == {(1e-3, 0.01)}


@pytest.mark.parametrize("frames", [1, 2])
def test_points_that_share_voxels_equal_loops(frames):
    encoder = small_encoder()
    features, coors = crowded_points(frames=frames)
    assert len(coors.unique(dim=0)) < len(coors)
    features.requires_grad_()
    bev, _ = encoder(features, coors, frames)
    expected = map_by_loops(encoder, features, coors, frames)
    torch.testing.assert_close(bev, expected, **TOLERANCE[torch.float32])
    weights = torch.randn(bev.shape)
    inputs = [features, *(p for p in encoder.parameters())]
    ours = torch.autograd.grad((bev * weights).sum(), inputs)
    theirs = torch.autograd.grad((expected * weights).sum(), inputs)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_points_count_one_by_one_in_the_normalisation():
    """Statistics of the stem are over points, not over voxels."""
    encoder = small_encoder().train()
    features, coors = crowded_points()
    encoder(features, coors, 1)
    layer = encoder.stem[0]
    fresh = small_encoder()
    by_hand = fresh.stem[0]
    raw = []
    by_hand.norm.register_forward_hook(lambda _, inputs, __: raw.append(inputs[0]))
    fresh(features, coors, 1)
    assert raw[0].shape == (len(features), 3)
    momentum = layer.norm.momentum
    expected = (1 - momentum) * by_hand.norm.running_mean + momentum * raw[0].mean(0)
    torch.testing.assert_close(layer.norm.running_mean, expected)


def test_averaged_voxels_are_the_points_where_none_is_shared():
    features, coors = crowded_points()
    by_point, by_voxel = small_encoder(), small_encoder(site="voxel")
    with torch.no_grad():
        assert not torch.allclose(by_point(features, coors, 1)[0], by_voxel(features, coors, 1)[0])
        voxels, index = coors.unique(dim=0, return_inverse=True)
        mean = torch.stack([features[index == v].mean(0) for v in range(len(voxels))])
        expected = by_point(mean, voxels, 1)[0]
        torch.testing.assert_close(by_voxel(features, coors, 1)[0], expected)


def test_frames_do_not_see_each_other():
    encoder = small_encoder()
    features, coors = crowded_points(frames=2)
    with torch.no_grad():
        both, _ = encoder(features, coors, 2)
        for frame in range(2):
            rows = coors[:, 0] == frame
            alone = coors[rows].clone()
            alone[:, 0] = 0
            torch.testing.assert_close(both[frame], encoder(features[rows], alone, 1)[0][0])


def test_no_points_give_zeros():
    bev, levels = small_encoder()(torch.zeros(0, 2), torch.zeros(0, 4, dtype=torch.long), 2)
    assert bev.shape == (2, 4, 3, 3)
    assert not bev.any()
    assert levels == []


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="'pillar'"):
        SASSDSparseEncoder(site="pillar")
    with pytest.raises(ValueError, match="one entry per stage"):
        SASSDSparseEncoder(stage_channels=(8, 8))
