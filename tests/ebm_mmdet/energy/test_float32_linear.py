"""Linear layers in float32: half-precision weights, and gradients as products of bfloat16."""

from __future__ import annotations

import copy
import gc
import io

import pytest
import torch

from ebm_mmdet.energy import float32_linear, gradient_ascent
from ebm_mmdet.energy.float32_linear import Float32Linear
from ebm_mmdet.energy.host_reads import without_reads
from tests.tolerances import TOLERANCE


@pytest.fixture(autouse=True)
def _everywhere(monkeypatch):
    """Round here too, where the processor has no such products."""
    monkeypatch.setattr(float32_linear, "multiplies_bf16", lambda device_type: True)


def layer(precision="bf16", seed=0, **kwargs):
    torch.manual_seed(seed)
    found = Float32Linear(40, 30, **kwargs).eval()
    found.gradient_precision = precision
    return found


def value_and_gradient(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    return y.detach(), torch.autograd.grad(y.square().sum(), x)[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_multiplied_in_float32(dtype):
    module, x = layer("fp32").to(dtype), torch.randn(5, 40)
    expected = x @ module.weight.float().T + module.bias.float()
    torch.testing.assert_close(module(x), expected, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("bias", [True, False])
def test_values_keep_their_bits_and_gradients_are_those_of_rounded_factors(bias):
    """dL/dx = round(dL/dy) round(W), here of L = Σ y²."""
    module, x = layer(bias=bias), torch.randn(5, 40)
    y, gradient = value_and_gradient(module, x)
    exact, without = value_and_gradient(layer("fp32", bias=bias), x)
    assert torch.equal(y, exact)
    rounded = (2 * y).bfloat16().double() @ module.weight.bfloat16().double()
    torch.testing.assert_close(gradient.double(), rounded, rtol=2**-8, atol=2**-8)
    assert not torch.equal(gradient, without)
    assert (gradient - without).norm() < 0.01 * without.norm()


def test_the_rounded_weight_follows_the_weight():
    module, x = layer(), torch.randn(5, 40)
    first = value_and_gradient(module, x)[1]
    assert torch.equal(value_and_gradient(module, x)[1], first)
    with torch.no_grad():
        module.weight *= 2
        module.bias *= 2
    torch.testing.assert_close(value_and_gradient(module, x)[1], 4 * first, rtol=0.01, atol=1e-3)
    module.weight.data = layer(seed=1).weight.data  # does not count as a change for torch
    module.bias.data = layer(seed=1).bias.data
    assert torch.equal(value_and_gradient(module, x)[1], value_and_gradient(layer(seed=1), x)[1])
    module.load_state_dict(layer(seed=2).state_dict())
    assert torch.equal(value_and_gradient(module, x)[1], value_and_gradient(layer(seed=2), x)[1])


def test_a_change_that_torch_does_not_count_is_seen_in_the_next_mode():
    """As mmengine's EMAHook makes it, between train() and eval()."""
    module, x = layer(), torch.randn(5, 40)
    value_and_gradient(module, x)
    other = layer(seed=1)
    module.train()
    module.weight.data.copy_(other.weight)
    module.bias.data.copy_(other.bias)
    module.eval()
    assert torch.equal(value_and_gradient(module, x)[1], value_and_gradient(other, x)[1])


def test_copies_files_and_memory_know_nothing_of_it():
    module, x = layer(), torch.randn(5, 40)
    before, plain = len(float32_linear._rounded_weights), io.BytesIO()
    torch.save(module, plain)
    gradient = value_and_gradient(module, x)[1]
    assert len(float32_linear._rounded_weights) == before + 1
    after = io.BytesIO()
    torch.save(module, after)
    assert len(after.getvalue()) == len(plain.getvalue())
    assert torch.equal(value_and_gradient(copy.deepcopy(module), x)[1], gradient)
    del module
    gc.collect()
    assert len(float32_linear._rounded_weights) == before


def test_training_is_exact_and_weights_learn():
    module, exact, x = layer().train(), layer("fp32").train(), torch.randn(5, 40)
    module(x).square().sum().backward()
    exact(x).square().sum().backward()
    assert torch.equal(module.weight.grad, exact.weight.grad)
    assert torch.equal(value_and_gradient(module, x)[1], value_and_gradient(exact, x)[1])


def test_double_and_processors_without_such_products_are_exact(monkeypatch):
    x = torch.randn(5, 40)
    double = layer().double()
    assert torch.equal(
        value_and_gradient(double, x.double())[1],
        value_and_gradient(layer("fp32").double(), x.double())[1],
    )
    monkeypatch.setattr(float32_linear, "multiplies_bf16", lambda device_type: False)
    assert torch.equal(value_and_gradient(layer(), x)[1], value_and_gradient(layer("fp32"), x)[1])


def test_a_graph_that_may_run_elsewhere_is_exact():
    x = torch.randn(5, 40)
    with without_reads():
        found = value_and_gradient(layer(), x)[1]
    assert torch.equal(found, value_and_gradient(layer("fp32"), x)[1])


def test_after_a_forward_in_inference_mode_gradients_can_be_kept():
    module, x = layer(), torch.randn(5, 40)
    with torch.inference_mode(), torch.inference_mode(False):
        first = value_and_gradient(module, x)[1]
    assert torch.equal(value_and_gradient(module, x)[1], first)


def test_f_can_be_differentiated_twice():
    module = layer()
    x = torch.randn(5, 40, requires_grad=True)
    (first,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    second = torch.autograd.grad(first.sum(), x)[0]
    weight = module.weight.detach()
    expected = (2 * torch.ones(5, 40) @ weight.T) @ weight
    torch.testing.assert_close(second, expected, rtol=0.05, atol=0.5)


def test_a_climb_keeps_its_promise_that_f_never_falls():
    module = layer()

    def f(y):
        return -module(y).square().sum(-1)

    result = gradient_ascent(f, torch.randn(8, 40), 0.05, 20, return_trace=True)
    values = result.trace.log_density
    assert (values[1:] >= values[:-1]).all()
    assert (values[-1] > values[0]).all()
    # And f is that of the exact layer, at every point.
    exact = layer("fp32")
    torch.testing.assert_close(
        values, -exact(result.trace.y).square().sum(-1), **TOLERANCE[torch.float32]
    )


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match="gradient_precision='fp16' is unknown; use 'fp32'"):
        float32_linear.check_gradient_precision("fp16")
