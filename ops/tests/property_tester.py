"""Properties of every pooling operator for any map and boxes, and degenerate boxes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from operator_tester import EXACT
from precision_tester import PrecisionTester
from surroundings import HAS_CPP

backends = st.sampled_from(["cpp", "reference"] if HAS_CPP else ["reference"])
# Each of the shared properties runs in one class per operator, which is meant.
relaxed = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.differing_executors]
)
seeds = st.integers(0, 2**31)
NAN, INF = math.nan, math.inf


def maps(seed: int, height: int = 9, width: int = 11, channels: int = 2) -> Tensor:
    """(1, C, H, W), float64."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, height, width, generator=g, dtype=torch.float64)


class PropertyTester(PrecisionTester):
    """Properties, boxes without a value, empty inputs, and the same bits again."""

    @relaxed
    @given(
        seed=seeds,
        h=st.integers(1, 8),
        w=st.integers(1, 8),
        number=st.integers(0, 9),
        backend=backends,
        factor=st.floats(-3, 3),
    )
    def test_linear_in_the_map(self, seed, h, w, number, backend, factor):
        f, g, boxes = maps(seed), maps(seed + 1), self.boxes_in_cells(seed)
        variant = self.draw_variant(number)

        def pool(features):
            return self.pool_cells(features, boxes, (h, w), backend, **variant)

        torch.testing.assert_close(pool(factor * f + g), factor * pool(f) + pool(g), **EXACT)

    @relaxed
    @given(seed=seeds, number=st.integers(0, 9), backend=backends)
    def test_gradients_are_those_of_a_pairing(self, seed, number, backend):
        """`<g, pool(f)> = <pool^T(g), f>`."""
        f, boxes = maps(seed).requires_grad_(), self.boxes_in_cells(seed)
        variant = self.draw_variant(number)
        pooled = self.pool_cells(f, boxes, backend=backend, **variant)
        g = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(seed)).double()
        (by_f,) = torch.autograd.grad(pooled, f, g)
        torch.testing.assert_close((g * pooled).sum(), (by_f * f).sum(), **EXACT)

    @relaxed
    @given(
        seed=seeds,
        number=st.integers(0, 9),
        backend=backends,
        dx=st.integers(0, 4),
        dy=st.integers(0, 4),
    )
    def test_moves_with_the_map(self, seed, number, backend, dx, dy):
        f, boxes = maps(seed), self.boxes_in_cells(seed)
        variant = self.draw_variant(number)
        shifted = nn.functional.pad(f, (dx, 0, dy, 0))
        found = self.pool_cells(shifted, self.moved(boxes, dx, dy), backend=backend, **variant)
        expected = self.pool_cells(f, boxes, backend=backend, **variant)
        torch.testing.assert_close(found, expected, **EXACT)

    def draw_variant(self, number: int) -> dict:
        return self.property_variants[number % len(self.property_variants)]

    def test_odd_boxes_are_zero_and_have_no_gradient(self, backend, odd_box, variant):
        f = maps(0).requires_grad_()
        boxes = torch.tensor([self.good_box, self.odd_boxes[odd_box]], dtype=torch.float64)
        boxes.requires_grad_()
        pooled = self.pool_cells(f, boxes, backend=backend, **variant)
        assert (pooled[1] == 0).all()
        for gradient in torch.autograd.grad(pooled[1].sum(), (f, boxes), retain_graph=True):
            assert (gradient == 0).all()
        # They affect neither derivatives of any order nor the box beside them.
        (slope,) = torch.autograd.grad(pooled.square().sum(), boxes, create_graph=True)
        for second in torch.autograd.grad(slope.square().sum(), (f, boxes)):
            assert second.isfinite().all()
            assert (second != 0).any()
        alone = self.pool_cells(f, boxes[:1], backend=backend, **variant)
        assert torch.equal(pooled[:1], alone)
        assert (slope[0] != 0).any()
        assert (slope[1] == 0).all()

    @pytest.mark.parametrize(
        ("shape", "count"),
        [((2, 3, 8, 9), 0), ((0, 3, 8, 9), 0), ((2, 3, 0, 9), 2), ((1, 3, 9, 0), 2),
         ((1, 0, 4, 4), 1)],
    )  # fmt: skip
    def test_nothing_to_pool(self, backend, shape, count):
        f = torch.randn(shape, requires_grad=True)
        boxes = torch.tensor([self.good_box]).repeat(count, 1).requires_grad_()
        pooled = self.pool_cells(f, boxes, (3, 2), backend)
        assert pooled.shape == (count, shape[1], 3, 2)
        assert (pooled == 0).all()
        slopes = torch.autograd.grad(pooled.sum(), (f, boxes), create_graph=True)
        for gradient, like in zip(slopes, (f, boxes)):
            assert gradient.shape == like.shape
            assert (gradient == 0).all()
        if slopes[1].requires_grad:
            (second,) = torch.autograd.grad(slopes[1].square().sum(), boxes, allow_unused=True)
            assert second is None or (second == 0).all()

    def test_one_call_for_a_batch_equals_one_call_per_image(self, backend):
        features, boxes, images = self.problem(6, count=20)
        together = self.pool(features, boxes, images, backend=backend)
        for image in range(2):
            mine = images == image
            alone = self.pool(
                features[image : image + 1], boxes[mine], images[mine] * 0, backend=backend
            )
            torch.testing.assert_close(together[mine], alone, rtol=0, atol=self.batch_tolerance)

    def everything(self, channels: int, **variant) -> list[Tensor]:
        inputs = self.problem_of_backends(0, channels, torch.float32, 40)
        g = torch.Generator().manual_seed(1)
        grad = torch.randn(40, channels, *self.size, generator=g)
        tangent = torch.randn(inputs[1].shape, generator=g)
        return self.derivatives(inputs, grad, tangent, "auto", **variant)

    @pytest.mark.skipif(not HAS_CPP, reason="matrix products promise no such thing")
    @pytest.mark.parametrize("channels", [5, 64, 70, 200])
    def test_same_bits_for_any_number_of_threads(self, channels, variant):
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            first = self.everything(channels, **variant)
            for threads in (1, 2, 3, 7):
                torch.set_num_threads(threads)
                for a, b in zip(first, self.everything(channels, **variant)):
                    assert torch.equal(a, b)
        finally:
            torch.set_num_threads(before)

    @pytest.mark.skipif(not HAS_CPP, reason="matrix products promise no such thing")
    def test_same_bits_whatever_the_other_boxes(self):
        f = maps(0, channels=40).float()
        boxes = self.boxes_in_cells(3, count=12).float().requires_grad_()
        together = self.pool_cells(f, boxes)
        (slopes,) = torch.autograd.grad(together.square().sum(), boxes)
        for n in range(12):
            alone = self.pool_cells(f, boxes[n : n + 1])
            assert torch.equal(alone[0], together[n])
            (slope,) = torch.autograd.grad(alone.square().sum(), boxes)
            assert torch.equal(slope[n], slopes[n])
