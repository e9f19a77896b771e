"""What holds for precise RoI pooling whatever the map and the boxes, and the odd boxes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm_ops import prroi_pool
from ebm_ops.prroi_pool import reference
from operator_tester import HAS_CPP, run_python
from quadrature import random_rois
from tolerances import TOLERANCE

EXACT = TOLERANCE[torch.float64]
SIZE = (9, 11)
seeds = st.integers(0, 2**31)
bins = st.integers(1, 8)
backends = st.sampled_from(["cpp", "reference"] if HAS_CPP else ["reference"])
relaxed = settings(max_examples=25, deadline=None)


def maps(seed: int, channels: int = 2) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, *SIZE, generator=g, dtype=torch.float64)


def boxes(seed: int, margin: float = 0.3) -> torch.Tensor:
    return random_rois(4, 1, (SIZE[1], SIZE[0]), seed, margin)


@relaxed
@given(seed=seeds, h=bins, w=bins, backend=backends, a=st.floats(-3, 3))
def test_linear_in_the_features(seed, h, w, backend, a):
    f, g, rois = maps(seed), maps(seed + 1), boxes(seed)
    both = prroi_pool(a * f + g, rois, (h, w), 1.0, backend)
    apart = a * prroi_pool(f, rois, (h, w), 1.0, backend) + prroi_pool(
        g, rois, (h, w), 1.0, backend
    )
    torch.testing.assert_close(both, apart, **EXACT)


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
@given(seed=seeds, backend=backends, dx=st.integers(0, 4), dy=st.integers(0, 4))
def test_moves_with_the_map(seed, backend, dx, dy):
    f, rois = maps(seed), boxes(seed)
    moved = torch.nn.functional.pad(f, (dx, 0, dy, 0))
    shift = torch.tensor([0, dx, dy, dx, dy])
    torch.testing.assert_close(
        prroi_pool(moved, rois + shift, 3, 1.0, backend),
        prroi_pool(f, rois, 3, 1.0, backend),
        **EXACT,
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


@relaxed
@given(seed=seeds, backend=backends)
def test_gradients_are_those_of_a_pairing(seed, backend):
    """`<g, pool(f)> = <pool^T(g), f>`, and moving box and map together changes nothing."""
    f, rois = maps(seed).requires_grad_(), boxes(seed).requires_grad_()
    pooled = prroi_pool(f, rois, 3, 1.0, backend)
    g = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(seed)).double()
    by_f, _ = torch.autograd.grad(pooled, (f, rois), g)
    torch.testing.assert_close((g * pooled).sum(), (by_f * f).sum(), **EXACT)


ODD = {
    "zero width": (2, 1, 2, 6),
    "zero height": (2, 3, 6, 3),
    "inverted x": (6, 1, 2, 6),
    "inverted y": (1, 6, 6, 1),
    "inverted both": (6, 6, 1, 1),
    "thinner than 1e-5 cells": (2, 1, 2 + 4e-6, 6),
    "nan": (float("nan"), 1, 5, 5),
    "all nan": (float("nan"),) * 4,
    "inf": (1, 1, float("inf"), 5),
    "-inf": (float("-inf"), 1, 5, 5),
    "both inf": (float("-inf"), float("-inf"), float("inf"), float("inf")),
    "left of the map": (-9, 1, -1, 5),
    "right of the map": (11, 1, 15, 5),
    "above the map": (1, -7, 5, -1),
    "below the map": (1, 9, 5, 12),
    "far outside": (1e9, 1e9, 2e9, 2e9),
    "overflow": (-1e308, 1, 1e308, 5),
}


@pytest.mark.parametrize("name", ODD)
def test_boxes_without_a_value_pool_to_zero_and_have_no_gradient(backend, name):
    f = maps(0).requires_grad_()
    rois = torch.tensor([[0, 1, 1, 5, 5], [0, *ODD[name]]], dtype=torch.float64)
    rois.requires_grad_()
    pooled = prroi_pool(f, rois, 3, 1.0, backend)
    assert (pooled[1] == 0).all()
    by_f, by_rois = torch.autograd.grad(pooled[1].sum(), (f, rois), retain_graph=True)
    assert (by_f == 0).all()
    assert (by_rois == 0).all()
    # And they leave the box beside them alone.
    assert torch.equal(pooled[:1], prroi_pool(f, rois[:1], 3, 1.0, backend))
    assert (torch.autograd.grad(pooled.sum(), rois)[0][0, 1:] != 0).any()


def test_outside_counts_as_zero(backend):
    """A map of ones: the value is the covered fraction, the rim falling linearly over one cell."""
    ones = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    rois = torch.tensor(
        [[0, -5, -5, 10, 10], [0, -1e9, -1e9, 1e9, 1e9], [0, -3, 0, 3, 3]], dtype=torch.float64
    )
    pooled = prroi_pool(ones, rois, 1, 1.0, backend).flatten()
    expected = torch.tensor([16 / 225, 16 / 4e18, 3.5 / 6], dtype=torch.float64)
    torch.testing.assert_close(pooled, expected, rtol=1e-6, atol=0)


def test_nothing_to_pool(backend):
    for shape, count in (
        ((2, 3, 8, 9), 0),
        ((0, 3, 8, 9), 0),
        ((2, 3, 0, 9), 2),
        ((1, 0, 4, 4), 1),
    ):
        f = torch.randn(shape, requires_grad=True)
        rois = torch.tensor([[0, 1.0, 1, 5, 5]]).repeat(count, 1).requires_grad_()
        pooled = prroi_pool(f, rois, (3, 2), 0.5, backend)
        assert pooled.shape == (count, shape[1], 3, 2)
        assert (pooled == 0).all()
        by_f, by_rois = torch.autograd.grad(pooled.sum(), (f, rois))
        assert (by_f == 0).all()
        assert (by_rois == 0).all()


@pytest.mark.parametrize("width", [1e-4, 1e-3, 1e-2])
def test_thin_boxes_keep_their_digits(backend, width):
    """Float32 features: the error does not grow with 1 / width."""
    f = maps(0).float()
    rois = torch.tensor([[0, 7.3, 2.2, 7.3 + width, 6.1]], requires_grad=True)
    found, expected = [], []
    for features, boxes_, out in ((f, rois, found), (f.double(), rois.double(), expected)):
        pooled = prroi_pool(features, boxes_, 3, 1.0, backend)
        out += [pooled, torch.autograd.grad(pooled.square().sum(), boxes_)[0]]
    for a, b in zip(found, expected):
        torch.testing.assert_close(a.double(), b, **TOLERANCE[torch.float32])


def _everything(channels: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    f = torch.randn(2, channels, 30, 33, generator=g).requires_grad_()
    rois = random_rois(40, 2, (33, 30), 1).float().requires_grad_()
    pooled = prroi_pool(f, rois, 7, 1.0)
    grad = torch.randn(pooled.shape, generator=g)
    return [pooled, *torch.autograd.grad(pooled, (f, rois), grad)]


@pytest.mark.skipif(not HAS_CPP, reason="matrix products promise no such thing")
@pytest.mark.parametrize("channels", [5, 64, 200])
def test_same_bits_for_any_number_of_threads(channels):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = _everything(channels)
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            for a, b in zip(first, _everything(channels)):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not HAS_CPP, reason="the reference multiplies matrices of joined windows")
def test_same_bits_whatever_the_other_boxes():
    f, rois = maps(0, 40).float(), random_rois(12, 1, (11, 9), 3).float()
    together = prroi_pool(f, rois, 7, 1.0)
    for n in range(12):
        assert torch.equal(prroi_pool(f, rois[n : n + 1], 7, 1.0)[0], together[n])


def test_same_bits_in_another_process():
    script = (
        "import torch; from test_prroi_pool_properties import _everything;"
        "torch.set_num_threads(1);"
        "print([t.double().abs().sum().item().hex() for t in _everything(70)])"
    )
    runs = [run_python(script) for _ in range(2)]
    assert runs[0].stdout, runs[0].stderr
    assert runs[0].stdout == runs[1].stdout


def test_gathered_windows_are_the_same_definition():
    """The path of higher derivatives: values, gradients and second derivatives of the reference."""
    features, rois = torch.cat([maps(0, 3), maps(1, 3)]), random_rois(30, 2, (11, 9), 4)
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
    features, rois = torch.cat([maps(0, 3), maps(1, 3)]), random_rois(30, 2, (11, 9), 4)
    whole = reference.forward_gathered(features, rois, (3, 2), 0.9)
    monkeypatch.setattr(reference, "_MAX_PIXELS", 150)
    torch.testing.assert_close(
        reference.forward_gathered(features, rois, (3, 2), 0.9), whole, **TOLERANCE[torch.float64]
    )
    assert reference.forward_gathered(features, rois[:0], (2, 2), 0.9).shape == (0, 3, 2, 2)
    assert reference.forward_gathered(features[..., :0], rois, (2, 2), 0.9).shape == (30, 3, 2, 2)
