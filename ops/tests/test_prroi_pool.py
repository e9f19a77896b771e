"""Precise RoI pooling: the tests of all operators, and its own values and derivatives."""

from __future__ import annotations

from importlib import import_module
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from backend_tester import BackendTester
from ebm_ops import PrRoIPool, prroi_pool
from ebm_ops.prroi_pool import reference
from quadrature import integrate, random_rois

SCALE = 0.3
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


def problem(seed: int, channels: int = 3, count: int = 6, size=(9, 11), dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(2, channels, *size, generator=g, dtype=torch.float64).to(dtype)
    rois = random_rois(count, 2, (size[1] / SCALE, size[0] / SCALE), seed).to(dtype)
    return features, rois


def separate(features: Tensor, rois: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (N, 4) apart from their images (N,): a numerical check must not shift an index."""
    return features, rois[:, 1:].contiguous(), rois[:, 0].long()


def away_from_kinks(rois: Tensor, size: tuple[int, int]) -> Tensor:
    """Move boxes until no bin edge is within 1e-3 of a node, where second derivatives jump."""
    rois = rois.clone()
    for box in rois:
        for lo, hi, bins in ((1, 3, size[1]), (2, 4, size[0])):
            t = torch.linspace(0, 1, bins + 1, dtype=rois.dtype)
            while True:
                edges = (box[lo] + (box[hi] - box[lo]) * t) * SCALE
                if ((edges - edges.round()).abs() > 1e-3).all():
                    break
                box[lo] += 0.0123
    return rois


TRITON_IN_INTERPRETER = """
import rational
import torch
from ebm_ops.prroi_pool import reference, triton
from tolerances import TOLERANCE

nan, inf = float("nan"), float("inf")
boxes = [[1, 1.3, 2.2, 4.9, 3.7], [0, -3, 1, 2.5, 30], [1, 2, 2, 2, 4], [0, 4, 1, 1, 3],
         [0, nan, 1, 2, 3], [0, 1, 1, inf, 3], [1, -1e9, -1e9, 1e9, 1e9], [0, 2.2, 1, 2.4, 1.01]]
for dtype, channels in ((torch.float64, 3), (torch.float32, 1)):
    rois = torch.tensor(boxes, dtype=dtype)
    features = torch.randn(2, channels, 4, 5, dtype=dtype)
    grad = torch.randn(len(boxes), channels, 1, 2, dtype=dtype)
    for name, arguments in (
        ("grad_rois", (grad, features, rois, 0.9)),
        ("grad_features", (grad, rois, 2, 4, 5, 0.9)),
    ):
        found = getattr(triton, name)(*arguments)
        torch.testing.assert_close(found, getattr(reference, name)(*arguments), **TOLERANCE[dtype])
    torch.testing.assert_close(
        triton.forward(features, rois, 1, 2, 0.9),
        reference.forward(features, rois, (1, 2), 0.9), **TOLERANCE[dtype])
# A box of no image has no area, and nothing is read outside of the maps.
for image in (2, -1, 1e9, -0.5, nan, inf):
    nowhere = rois.clone()
    nowhere[:, 0] = image
    assert not triton.forward(features, nowhere, 1, 2, 0.9).any()
    assert not triton.grad_rois(grad, features, nowhere, 0.9).any()
    assert not triton.grad_features(grad, nowhere, 2, 4, 5, 0.9).any()
# Thin bins, beside fractions.
for side in rational.THIN[1:3]:
    rois = rational.thin_boxes(side)[::3]
    features, grad = torch.randn(1, 2, 4, 5), torch.randn(len(rois), 2, 1, 3)
    values, slopes = rational.pool(features, rois, (1, 3), 0.25, grad)
    for found, expected in (
        (triton.forward(features, rois, 1, 3, 0.25), values),
        (triton.grad_rois(grad, features, rois, 0.25), slopes),
    ):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-6)
for empty in (rois[:0], rois[:1]):
    assert triton.forward(features[:, :0], empty, 2, 2, 1.0).shape == (len(empty), 0, 2, 2)
print("ok")
"""


class TestPrRoIPool(BackendTester):
    """Boxes are x1, y1, x2, y2; the operator takes the image index as their first column."""

    name = "prroi_pool"
    gradients = ("features", "rois")
    reference = reference
    size = (7, 7)
    third_columns = (2, 2)
    cases: ClassVar = {
        "variant": [{}],
        "seed": range(6),
        "gradgrad_seed": range(3),
        "opcheck_case": [None],
        "bad_image": [2.0, -1.0, 0.5, float("nan"), float("inf")],
        "odd_box": list(ODD),
    }
    odd_boxes = ODD
    odd_index = r"rois\[4, 0\]"
    good_box = (1.0, 1, 5, 5)
    # The reference multiplies matrices of joined windows, which rounds with their shape.
    batch_tolerance = 1e-12
    interpreter_script = TRITON_IN_INTERPRETER
    varying: ClassVar = {"batch", "count"}  # rows and columns of maps are no integers

    def problem(self, seed, channels=3, count=6, dtype=torch.float64):
        return separate(*problem(seed, channels, count, dtype=dtype))

    def small_problem(self, seed, size, variant):
        features, rois = problem(seed, channels=2, count=3, size=(5, 6))
        return separate(features, away_from_kinks(rois, size))

    def problem_of_backends(self, seed, channels, dtype, count=12):
        return separate(*problem(seed, channels, count, (15, 20), dtype))

    def pool(self, features, boxes, images, size=(7, 7), backend="auto"):
        rois = torch.cat([images[:, None].to(boxes.dtype), boxes], 1)
        return prroi_pool(features, rois, size, SCALE, backend)

    def pool_cells(self, features, boxes, size=(3, 3), backend="auto"):
        rois = torch.nn.functional.pad(boxes, (1, 0))
        return prroi_pool(features, rois, size, 1.0, backend)

    def boxes_in_cells(self, seed, count=4):
        return random_rois(count, 1, (11, 9), seed, margin=0.3)[:, 1:]

    def moved(self, boxes, dx, dy):
        return boxes + torch.tensor([dx, dy, dx, dy])

    def module(self, size):
        return PrRoIPool(size, SCALE), f"output_size={size}"

    def call_module(self, module, inputs):
        features, boxes, images = inputs
        return module(features, torch.cat([images[:, None].to(boxes.dtype), boxes], 1))

    def exact_values(self, inputs):
        features, boxes, images = inputs
        rois = torch.cat([images[:, None].double(), boxes.double()], 1)
        return integrate(features, rois, (7, 7), SCALE)

    def closed_forms(self, inputs, grad, tangent):
        features, boxes, images = inputs
        rois = torch.cat([images[:, None].to(boxes.dtype), boxes], 1)
        batch, _, height, width = features.shape
        return [
            reference.forward(features, rois, (7, 7), SCALE),
            reference.grad_features(grad, rois, batch, height, width, SCALE),
            reference.grad_rois(grad, features, rois, SCALE)[:, 1:],
        ]

    def opcheck_calls(self, dtype, case):
        features, rois = problem(0, channels=4, dtype=dtype)
        grad = torch.randn(6, 4, 3, 2, dtype=dtype)
        f, r, g = (t.clone().requires_grad_() for t in (features, rois, grad))
        ops = torch.ops.ebm_ops
        yield ops.prroi_pool.default, (f, r, 3, 2, SCALE)
        yield ops.prroi_pool.default, (features, r, 3, 2, SCALE)
        # Not as a traced function of its inputs: second derivatives run on the reference, whose
        # windows depend on the data (and torch.compile has no double backward to use them in).
        yield ops.prroi_pool_grad_rois.default, (grad, features, rois, SCALE)
        yield ops.prroi_pool_grad_features.default, (g, r, 2, 9, 11, SCALE)

    def implementations(self, name):
        package = import_module("ebm_ops.prroi_pool")
        return {
            "registered": getattr(torch.ops.ebm_ops, name),
            "reference": package._reference_kernels("cpu")[name],
            "triton": package._triton_kernels()[name],
        }

    def triton_kernels(self, real):
        for levels in (1, 4):
            maps = ((real,) * levels, ("fp32",) * (2 * levels))
            boxes = (real, "*i64" if levels > 1 else real, ("i64",) * levels)
            constants = {"LEVELS": levels, "BLOCK": 256, "BINS_FIRST": False}
            yield "_forward", [*maps, *boxes, real, *["i32"] * 4], constants
            yield "_grad_rois", [real, *maps, *boxes, real, *["i32"] * 4], constants
            if real == "*fp32":  # as for a CUDA graph
                half = (("*bf16" if levels > 1 else "*fp16",) * levels, maps[1])
                constants = {**constants, "BINS_FIRST": True}
                yield "_forward", [*half, *boxes, real, *["i32"] * 4], constants
                yield "_grad_rois", [real, *half, *boxes, real, *["i32"] * 4], constants
            constants = {"LEVELS": levels, "BLOCK": 64, "BOXES": 128}
            yield "_grad_features", [real, *maps, *boxes, *["i32"] * 5], constants


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("output_size", [(1, 1), (7, 7), (2, 5)])
def test_equals_numerical_integral(backend, seed, output_size):
    features, rois = problem(seed)
    pooled = prroi_pool(features, rois, output_size, SCALE, backend)
    expected = integrate(features, rois, output_size, SCALE)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_box_gradient_equals_central_differences(backend, seed):
    features, rois = problem(seed)
    g = torch.randn(6, 3, 7, 7, dtype=torch.float64)
    rois.requires_grad_()
    pooled = prroi_pool(features, rois, 7, SCALE, backend)
    (found,) = torch.autograd.grad(pooled, rois, g)
    step, expected = 1e-4, torch.zeros_like(rois)
    for column in range(1, 5):
        shift = torch.zeros(5, dtype=torch.float64)
        shift[column] = step
        above, below = (
            (g * integrate(features, rois.detach() + s, (7, 7), SCALE)).sum((1, 2, 3))
            for s in (shift, -shift)
        )
        expected[:, column] = (above - below) / (2 * step)
    # The pooled value is piecewise smooth: a difference over a kink errs by its step.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=2e-3 * step * found.abs().max())


def test_bad_arguments_are_named():
    features, rois = problem(0)
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), got \(3, 9, 11\)"):
        prroi_pool(features[0], rois, 7, SCALE)
    with pytest.raises(ValueError, match=r"\(N, 5\).*got \(6, 4\)"):
        prroi_pool(features, rois[:, 1:], 7, SCALE)
    with pytest.raises(TypeError, match=r"rois must be floating.*rois\.float\(\)"):
        prroi_pool(features, rois.long(), 7, SCALE)
    for size in (0, (7, -1), (1, 2, 3), (2.5, 2)):
        with pytest.raises(ValueError, match="output_size must be"):
            prroi_pool(features, rois, size, SCALE)
    for scale in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="spatial_scale must be positive"):
            prroi_pool(features, rois, 7, scale)
