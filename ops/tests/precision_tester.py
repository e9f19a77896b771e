"""Tests of every pooling operator in other precisions than that of its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from operator_tester import OperatorTester
from tolerances import TOLERANCE


class PrecisionTester(OperatorTester):
    """Half precision is rounded once, at the end, and autocast changes no digit."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_lower_precision_within_the_table(self, backend, dtype, variant):
        inputs = self.problem(1, channels=19, dtype=dtype)
        pooled = self.pool(*inputs, backend=backend, **variant)
        assert pooled.dtype == dtype
        assert pooled.is_contiguous()
        # The inputs are rounded, the computation is not.
        expected = self.exact_values(inputs, **variant)
        torch.testing.assert_close(pooled.double(), expected, **TOLERANCE[dtype])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_autocast_changes_no_digit(self, backend, dtype, variant):
        """Of values, first and second derivatives: they are those of float32, rounded once."""
        inputs = self.problem(2, channels=19, dtype=torch.float32)
        features, boxes, images = inputs[0].to(dtype), *inputs[1:]
        g = torch.Generator().manual_seed(5)
        grad = torch.randn(len(boxes), 19, *self.size, generator=g).to(dtype)
        tangent = torch.randn(boxes.shape, generator=g)

        def results(features: Tensor, grad: Tensor) -> list[Tensor]:
            f, b = features.clone().requires_grad_(), boxes.clone().requires_grad_()
            pooled = self.pool(f, b, images, backend=backend, **variant)
            first = torch.autograd.grad(pooled, (f, b), grad, create_graph=True)
            return [pooled, *first, *torch.autograd.grad(first[1], (f, b), tangent)]

        expected = results(features.float(), grad.float())
        with torch.autocast("cpu", torch.bfloat16):
            found = results(features, grad)
        kinds = dtype, dtype, torch.float32, dtype, torch.float32
        for a, b, kind in zip(found, expected, kinds, strict=True):
            assert a.dtype == kind
            scale = float(b.detach().abs().max())
            assert scale > 0
            tolerance = TOLERANCE[torch.float32]
            if kind != torch.float32:
                once = {"rtol": torch.finfo(kind).eps / 2, "atol": torch.finfo(kind).tiny}
                tolerance = {name: each + once[name] for name, each in tolerance.items()}
            torch.testing.assert_close(a.float() / scale, b / scale, **tolerance)

    @pytest.mark.parametrize("inside", ["values", "derivatives"])
    def test_autocast_at_one_time_only_changes_no_digit(self, backend, inside):
        """Values under autocast and derivatives without, as mmengine trains, and the reverse."""
        features, boxes, images = self.problem(2, dtype=torch.float32)
        found = []
        for dtype in (torch.float32, torch.bfloat16):
            f, b = features.clone().requires_grad_(), boxes.clone().requires_grad_()
            half = dtype == torch.bfloat16
            with torch.autocast("cpu", dtype, enabled=half and inside == "values"):
                pooled = self.pool(f, b, images, backend=backend)
            with torch.autocast("cpu", dtype, enabled=half and inside == "derivatives"):
                first = torch.autograd.grad(pooled.square().sum(), (f, b), create_graph=True)
                second = torch.autograd.grad(first[1].square().sum(), (f, b), create_graph=True)
                third = torch.autograd.grad(second[1].square().sum(), (f, b))
            found.append([pooled, *first, *second, *third])
        for a, b in zip(*found, strict=True):
            scale = b.detach().abs().max()
            torch.testing.assert_close(a / scale, b / scale, **TOLERANCE[torch.float32])

    def test_autocast_does_not_reach_the_closed_forms(self):
        """They serve where there is no compiler."""
        inputs = self.problem(2, channels=19, dtype=torch.float32)
        grad = torch.randn(len(inputs[1]), 19, *self.size)
        tangent = torch.randn(inputs[1].shape)
        expected = self.closed_forms(inputs, grad, tangent)
        with torch.autocast("cpu", torch.bfloat16):
            found = self.closed_forms(inputs, grad, tangent)
        for a, b in zip(found, expected, strict=True):
            scale = b.abs().max()
            torch.testing.assert_close(a / scale, b / scale, **TOLERANCE[torch.float32])

    def test_boxes_may_be_more_precise_than_the_map(self, backend):
        features, boxes, images = self.problem(0, dtype=torch.float32)
        boxes = boxes.double().requires_grad_()
        self.pool(features, boxes, images.int(), backend=backend).sum().backward()
        assert boxes.grad.dtype == torch.float64
