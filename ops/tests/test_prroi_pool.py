"""Values and derivatives of precise RoI pooling against independent computations."""

from __future__ import annotations

import pytest
import torch

from ebm_ops import PrRoIPool, prroi_pool
from ebm_ops.prroi_pool import reference
from operator_tester import HAS_CPP
from quadrature import integrate, random_rois
from tolerances import TOLERANCE

SCALE = 0.3


def problem(seed: int, channels: int = 3, count: int = 6, size=(9, 11), dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(2, channels, *size, generator=g, dtype=torch.float64).to(dtype)
    rois = random_rois(count, 2, (size[1] / SCALE, size[0] / SCALE), seed).to(dtype)
    return features, rois


def away_from_kinks(rois: torch.Tensor, bins: int) -> torch.Tensor:
    """Move boxes until no bin edge is within 1e-3 of a node, where second derivatives jump."""
    rois = rois.clone()
    t = torch.linspace(0, 1, bins + 1, dtype=rois.dtype)
    for box in rois:
        for lo, hi in ((1, 3), (2, 4)):
            while True:
                edges = (box[lo] + (box[hi] - box[lo]) * t) * SCALE
                if ((edges - edges.round()).abs() > 1e-3).all():
                    break
                box[lo] += 0.0123
    return rois


def with_index(rois: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """The batch index of `rois` before other boxes: a numerical check must not shift an index."""
    return torch.cat([rois[:, :1].detach(), boxes], 1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("output_size", [(1, 1), (7, 7), (2, 5)])
def test_equals_numerical_integral(backend, seed, output_size):
    features, rois = problem(seed)
    pooled = prroi_pool(features, rois, output_size, SCALE, backend)
    expected = integrate(features, rois, output_size, SCALE)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_within_the_table(backend, dtype):
    features, rois = problem(1, channels=19, dtype=dtype)
    pooled = prroi_pool(features, rois, 7, SCALE, backend)
    assert pooled.dtype == dtype
    assert pooled.is_contiguous()
    # The inputs are rounded, the computation is not.
    expected = integrate(features, rois.float(), (7, 7), SCALE)
    torch.testing.assert_close(pooled.double(), expected, **TOLERANCE[dtype])


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


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "transposed"])
@pytest.mark.parametrize("seed", range(6))
def test_gradcheck(backend, seed, layout):
    features, rois = problem(seed, channels=2, count=3, size=(5, 6))
    if layout == "channels_last":
        features = features.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        features = features.repeat_interleave(2, 1).repeat_interleave(2, 3)[:, ::2, :, ::2]
    elif layout == "transposed":
        features = features.transpose(2, 3).contiguous().transpose(2, 3)
        rois = rois.t().contiguous().t()  # and so are the boxes cut out of it
    boxes = rois[:, 1:].detach().requires_grad_()
    features = features.detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f, b: prroi_pool(f, with_index(rois, b), (3, 2), SCALE, backend), (features, boxes)
    )


@pytest.mark.parametrize("seed", range(3))
def test_gradgradcheck(backend, seed):
    """On every backend: higher derivatives of the kernels are those of the reference."""
    features, rois = problem(seed, channels=2, count=2, size=(5, 6))
    boxes = away_from_kinks(rois, 2)[:, 1:].requires_grad_()
    features.requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda f, b: prroi_pool(f, with_index(rois, b), 2, SCALE, backend), (features, boxes)
    )


def test_third_derivatives_agree():
    """Score matching trains through second derivatives; no order may be cut off silently."""
    features, rois = problem(3, channels=2, count=2, size=(5, 6))
    found = []
    for backend in ("auto", "reference"):
        w = torch.linspace(-1, 1, 2 * 2 * 2, dtype=torch.float64).requires_grad_()
        r, f = rois.clone().requires_grad_(), features.clone().requires_grad_()
        energy = (prroi_pool(f, r, 2, SCALE, backend).flatten(1).tanh() @ w).sum()
        (slope,) = torch.autograd.grad(energy, r, create_graph=True)
        (curvature,) = torch.autograd.grad(slope[:, 3].sum(), r, create_graph=True)
        found.append(torch.autograd.grad(curvature[:, 3].sum(), (w, f, r)))
    for a, b in zip(*found):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, **TOLERANCE[torch.float64])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    features, rois = problem(0, channels=4, dtype=dtype)
    grad = torch.randn(6, 4, 3, 2, dtype=dtype)
    f, r, g = (t.clone().requires_grad_() for t in (features, rois, grad))
    ops = torch.ops.ebm_ops
    torch.library.opcheck(ops.prroi_pool.default, (f, r, 3, 2, SCALE))
    torch.library.opcheck(ops.prroi_pool.default, (features, r, 3, 2, SCALE))
    # Not as a traced function of its inputs: second derivatives run on the reference, whose windows
    # depend on the data (and torch.compile has no double backward to use them in).
    torch.library.opcheck(ops.prroi_pool_grad_rois.default, (grad, features, rois, SCALE))
    torch.library.opcheck(ops.prroi_pool_grad_features.default, (g, r, 2, 9, 11, SCALE))


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiles_as_one_graph(compiler):
    features, rois = problem(2, dtype=torch.float32)

    def slopes(f, r):
        return (prroi_pool(f, r, 7, SCALE) * 2).square().sum((1, 2, 3))

    compiled = torch.compile(slopes, fullgraph=True, backend=compiler, dynamic=True)
    for count in (6, 4):
        f, r = features.clone().requires_grad_(), rois[:count].clone().requires_grad_()
        expected, found = slopes(f, r), compiled(f, r)
        torch.testing.assert_close(found, expected, **TOLERANCE[torch.float32])
        for a, b in zip(
            torch.autograd.grad(found.sum(), (f, r)), torch.autograd.grad(expected.sum(), (f, r))
        ):
            torch.testing.assert_close(a, b, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("wanted", ["features", "rois"])
def test_only_the_gradient_asked_for_is_computed(monkeypatch, wanted):
    features, rois = problem(0)
    (features if wanted == "features" else rois).requires_grad_()
    called = []
    pool = torch.ops.ebm_ops
    for name in ("prroi_pool_grad_rois", "prroi_pool_grad_features"):
        original = getattr(pool, name)
        monkeypatch.setattr(
            pool, name, lambda *a, _f=original, _n=name: called.append(_n) or _f(*a)
        )
    prroi_pool(features, rois, 7, SCALE).sum().backward()
    assert called == [f"prroi_pool_grad_{wanted}"]


def test_channels_last_input_is_not_copied():
    features = torch.randn(2, 3, 8, 9).contiguous(memory_format=torch.channels_last)
    rois = torch.tensor([[0, 1.0, 1, 7, 7]], requires_grad=True)
    pooled = prroi_pool(features, rois, 2, 1.0)
    assert any(
        saved.data_ptr() == features.data_ptr()
        for saved in pooled.grad_fn.saved_tensors
        if saved is not None
    )


def test_autocast_and_mixed_dtypes(backend):
    features, rois = problem(0, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = prroi_pool(features, rois, 7, SCALE, backend)
        half = prroi_pool(features.bfloat16(), rois, 7, SCALE, backend)
    assert pooled.dtype == torch.float32
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(
        half.float(),
        prroi_pool(features.bfloat16().float(), rois, 7, SCALE, backend),
        **TOLERANCE[torch.bfloat16],
    )
    rois = rois.double().requires_grad_()
    prroi_pool(features, rois, 7, SCALE, backend).sum().backward()
    assert rois.grad.dtype == torch.float64


def test_module_equals_function():
    features, rois = problem(0)
    module = PrRoIPool((3, 2), SCALE)
    assert torch.equal(module(features, rois), prroi_pool(features, rois, (3, 2), SCALE))
    assert "output_size=(3, 2)" in repr(module)


@pytest.mark.parametrize("index", [2.0, -1.0, 0.5, float("nan"), float("inf")])
def test_bad_batch_index_is_named(backend, index):
    features, rois = problem(0)
    rois[4, 0] = index
    with pytest.raises(ValueError, match=r"rois\[4, 0\].*0\.\.1.*got (2|-1|0\.5|nan|inf)"):
        prroi_pool(features, rois, 7, SCALE, backend)


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
    with pytest.raises(ValueError, match="backend must be"):
        prroi_pool(features, rois, 7, SCALE, backend="cuda")
    with pytest.raises(RuntimeError, match="serves cuda tensors, got cpu"):
        prroi_pool(features, rois, 7, SCALE, backend="triton")


@pytest.mark.skipif(not HAS_CPP, reason="no C++ backend")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 7, 16, 17, 40, 64, 96, 150])
def test_backends_agree(channels, dtype):
    features, rois = problem(channels, channels, count=12, size=(15, 20), dtype=dtype)
    grad = torch.randn(12, channels, 7, 7, dtype=dtype)
    found = []
    for backend in ("cpp", "reference"):
        f, r = features.clone().requires_grad_(), rois.clone().requires_grad_()
        pooled = prroi_pool(f, r, 7, SCALE, backend)
        found.append((pooled, *torch.autograd.grad(pooled, (f, r), grad)))
    # The reference's closed forms, which serve where there is no compiler, and its autograd.
    _, _, height, width = features.shape
    found.append(
        (
            reference.forward(features, rois, (7, 7), SCALE),
            reference.grad_features(grad, rois, 2, height, width, SCALE),
            reference.grad_rois(grad, features, rois, SCALE),
        )
    )
    for other in found[1:]:
        for a, b in zip(found[0], other):
            torch.testing.assert_close(a, b, **TOLERANCE[dtype])
