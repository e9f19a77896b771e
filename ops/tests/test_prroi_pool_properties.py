"""Properties of precise RoI pooling, besides those of every operator."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rational
from ebm_ops import prroi_pool
from ebm_ops.prroi_pool import reference
from operator_tester import EXACT
from property_tester import backends, maps, relaxed, seeds
from quadrature import random_rois
from surroundings import HAS_CPP
from tolerances import TOLERANCE

SIZE = (9, 11)
bins = st.integers(1, 8)


def boxes(seed: int, margin: float = 0.3) -> torch.Tensor:
    return random_rois(4, 1, (SIZE[1], SIZE[0]), seed, margin)


@relaxed
@given(seed=seeds, h=bins, w=bins, backend=backends)
def test_affine_map_gives_its_value_at_the_bin_centres(seed, h, w, backend):
    """A constant is the special case; a bilinear interpolant of a plane is that plane."""
    i, j = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in SIZE), indexing="ij")
    plane = (0.7 - 1.3 * i + 0.4 * j)[None, None]
    rois = random_rois(4, 1, (SIZE[1] - 1, SIZE[0] - 1), seed, margin=-0.05)  # inside
    x1, y1, x2, y2 = rois[:, 1:].T[:, :, None]
    x = x1 + (x2 - x1) * (torch.arange(w) + 0.5) / w
    y = y1 + (y2 - y1) * (torch.arange(h) + 0.5) / h
    expected = 0.7 - 1.3 * y[:, :, None] + 0.4 * x[:, None, :]
    torch.testing.assert_close(
        prroi_pool(plane, rois, (h, w), 1.0, backend)[:, 0], expected, **EXACT
    )


@relaxed
@given(seed=seeds, backend=backends)
def test_flips_and_transposes_with_the_map(seed, backend):
    f, rois = maps(seed), boxes(seed)
    pooled = prroi_pool(f, rois, (3, 4), 1.0, backend)
    n, x1, y1, x2, y2 = rois.T
    last = SIZE[1] - 1
    flipped = prroi_pool(
        f.flip(3), torch.stack([n, last - x2, y1, last - x1, y2], 1), (3, 4), 1.0, backend
    )
    torch.testing.assert_close(flipped, pooled.flip(3), **EXACT)
    turned = prroi_pool(
        f.transpose(2, 3), torch.stack([n, y1, x1, y2, x2], 1), (4, 3), 1.0, backend
    )
    torch.testing.assert_close(turned, pooled.transpose(2, 3), **EXACT)


@relaxed
@given(seed=seeds, backend=backends, k=st.integers(2, 4))
def test_coarse_bins_are_means_of_fine_ones(seed, backend, k):
    f, rois = maps(seed), boxes(seed)
    fine = prroi_pool(f, rois, (2 * k, 3 * k), 1.0, backend)
    torch.testing.assert_close(
        prroi_pool(f, rois, (2, 3), 1.0, backend), torch.nn.functional.avg_pool2d(fine, k), **EXACT
    )


def test_outside_counts_as_zero(backend):
    """A map of ones: the value is the covered fraction, the rim falling linearly over one cell."""
    ones = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    rois = torch.tensor(
        [[0, -5, -5, 10, 10], [0, -1e9, -1e9, 1e9, 1e9], [0, -3, 0, 3, 3]], dtype=torch.float64
    )
    pooled = prroi_pool(ones, rois, 1, 1.0, backend).flatten()
    expected = torch.tensor([16 / 225, 16 / 4e18, 3.5 / 6], dtype=torch.float64)
    torch.testing.assert_close(pooled, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("side", rational.THIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thin_bins_keep_their_digits(backend, side, dtype):
    """The error of values and slopes does not grow with 1 / width. Compared with fractions."""
    rois = rational.thin_boxes(side).to(dtype).requires_grad_()
    f = maps(0, 4, 5).to(dtype)
    grad = torch.randn(len(rois), 2, 3, 7, dtype=dtype)
    pooled = prroi_pool(f, rois, (3, 7), 0.25, backend)
    (slopes,) = torch.autograd.grad(pooled, rois, grad)
    expected = rational.pool(f, rois.detach(), (3, 7), 0.25, grad)
    for a, b in zip((pooled, slopes), expected):
        torch.testing.assert_close(a.double(), b, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("side", rational.THIN)
def test_closed_forms_of_thin_bins_are_exact(side):
    """To the precision of float64, which autograd of the definition loses to 1 / width^2."""
    f, rois = maps(0, 4, 5), rational.thin_boxes(side).double()
    grad = torch.randn(len(rois), 2, 3, 7, dtype=torch.float64)
    _, expected = rational.pool(f, rois, (3, 7), 0.25, grad)
    found = reference.grad_rois(grad, f, rois, 0.25)
    torch.testing.assert_close(found, expected, **TOLERANCE[torch.float64])
    if HAS_CPP:
        found = torch.ops.ebm_ops.prroi_pool_grad_rois(grad, f, rois, 0.25)
        torch.testing.assert_close(found, expected, **TOLERANCE[torch.float64])


def test_gathered_windows_are_the_same_definition():
    """The path of higher derivatives: values, gradients and second derivatives of the reference."""
    features, rois = (
        torch.cat([maps(0, channels=3), maps(1, channels=3)]),
        random_rois(30, 2, (11, 9), 4),
    )
    rois[3, 1:] = torch.nan
    rois[5, 3] = rois[5, 1]
    found = []
    for pool in (reference.forward, reference.forward_gathered):
        f, r = features.clone().requires_grad_(), rois.clone().requires_grad_()
        pooled = pool(f, r, (3, 2), 0.9)
        first = torch.autograd.grad(pooled.square().sum(), (f, r), create_graph=True)
        second = torch.autograd.grad(first[1].nan_to_num().square().sum(), (f, r))
        found.append([pooled, *first, *second])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, **TOLERANCE[torch.float64], equal_nan=True)


def test_gathered_windows_in_several_parts(monkeypatch):
    features, rois = (
        torch.cat([maps(0, channels=3), maps(1, channels=3)]),
        random_rois(30, 2, (11, 9), 4),
    )
    whole = reference.forward_gathered(features, rois, (3, 2), 0.9)
    monkeypatch.setattr(reference, "_MAX_PIXELS", 150)
    torch.testing.assert_close(
        reference.forward_gathered(features, rois, (3, 2), 0.9), whole, **TOLERANCE[torch.float64]
    )
    assert reference.forward_gathered(features, rois[:0], (2, 2), 0.9).shape == (0, 3, 2, 2)
    assert reference.forward_gathered(features[..., :0], rois, (2, 2), 0.9).shape == (30, 3, 2, 2)
