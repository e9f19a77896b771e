import math

import pytest
import torch

from lab.regression1d import fused, network
from lab.regression1d.data import load_dataset
from lab.regression1d.network import EnergyEnsemble
from lab.regression1d.proposals import MixtureEnsemble

needs_kernel = pytest.mark.skipif(
    not fused.kernel_is_available(), reason="no C++ compiler on this machine"
)


def inputs(models, targets, points, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = 6 * torch.rand((models, targets), generator=g) - 3
    y = 3 * torch.randn((models * targets, points, 1), generator=g)
    return x.to(dtype), y.to(dtype)


def values_and_gradients(ensemble, x, y, twice_differentiable):
    y = y.clone().requires_grad_()
    f = ensemble.log_density_fn(x, twice_differentiable)(y)
    # Uneven weights, so that no gradient is a plain sum.
    weight = torch.linspace(-1, 1, f.numel(), dtype=f.dtype).view_as(f).sin()
    return [f, *torch.autograd.grad((weight * f).sum(), [y, *ensemble.parameters()])]


def test_has_the_size_of_the_paper():
    ensemble = EnergyEnsemble(range(4))
    assert sum(p.numel() for p in ensemble.parameters()) == 4 * 591
    sizes = {1: 363, 4: 462, 16: 858}
    for k, size in sizes.items():
        mixture = MixtureEnsemble(range(4), 0, k, load_dataset("1").y)
        assert sum(p.numel() for p in mixture.parameters()) == 4 * size


def test_is_the_network_of_the_paper():
    ensemble = EnergyEnsemble([7], seed=3)
    p = {name: value[0] for name, value in ensemble.named_parameters()}

    def layer(name, h):
        return torch.nn.functional.linear(h, p[f"{name}_weight"], p[f"{name}_bias"])

    x, y = inputs(1, 5, 6)
    h_x = layer("x2", layer("x1", x[0, :, None]).relu()).relu()[:, None].expand(-1, 6, -1)
    a = layer("joint", torch.cat([h_x, layer("y1", y).tanh()], -1)).tanh()
    a = layer("residual1", a).tanh() + a
    a = layer("residual2", a).tanh() + a
    expected = layer("out", a).squeeze(-1)
    torch.testing.assert_close(ensemble.log_density_fn(x, True)(y), expected)


def test_initial_weights_have_the_range_of_linear_layers():
    ensemble = EnergyEnsemble(range(50))
    for name, inputs_ in (("x1", 1), ("y1", 1), ("joint", 20), ("out", 10)):
        for kind in ("weight", "bias"):
            values = getattr(ensemble, f"{name}_{kind}").detach()
            bound = 1 / math.sqrt(inputs_)
            assert values.abs().max() <= bound
            assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)
    assert not torch.equal(ensemble.x2_weight[0], ensemble.x2_weight[1])


@needs_kernel
@pytest.mark.parametrize("points", [1, 2, 16, 63, 64, 65, 130])
def test_fused_equals_the_definition(points):
    ensemble = EnergyEnsemble(range(3), seed=1)
    x, y = inputs(3, 4, points)
    found = values_and_gradients(ensemble, x, y, twice_differentiable=False)
    expected = values_and_gradients(ensemble.double(), x.double(), y.double(), True)
    for a, b in zip(found, expected):
        assert (a - b).abs().max() <= 2e-6 * max(1.0, float(b.detach().abs().max()))


@needs_kernel
def test_fused_at_extremes():
    ensemble = EnergyEnsemble(range(2), seed=2)
    x, _ = inputs(2, 1, 1)
    y = torch.tensor([0.0, 1e-6, -1e-6, 40.0, -40.0, 1e6, -1e6, 1e30]).expand(2, -1).unsqueeze(-1)
    found = values_and_gradients(ensemble, x, y, False)
    expected = values_and_gradients(ensemble.double(), x.double(), y.double(), True)
    for a, b in zip(found[:2], expected[:2]):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=2e-6)
    assert all(tensor.isfinite().all() for tensor in found)


@needs_kernel
def test_fused_gradient_of_y_alone():
    ensemble = EnergyEnsemble(range(2)).requires_grad_(False)
    x, y = inputs(2, 3, 70)
    y.requires_grad_()
    (found,) = torch.autograd.grad(ensemble.log_density_fn(x)(y).sum(), y)
    (expected,) = torch.autograd.grad(ensemble.log_density_fn(x, True)(y).sum(), y)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@needs_kernel
def test_fused_refuses_a_second_derivative():
    ensemble = EnergyEnsemble(range(2))
    x, y = inputs(2, 3, 4)
    y.requires_grad_()
    (slope,) = torch.autograd.grad(ensemble.log_density_fn(x)(y).sum(), y, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad|once_differentiable"):
        slope.sum().backward()


@needs_kernel
def test_fused_rejects_what_it_cannot_read():
    y, weights, c = torch.zeros(2, 3, 4), torch.zeros(2, 351), torch.zeros(2, 3, 10)
    with pytest.raises(ValueError, match=r"weights \(2, 350\)"):
        fused.fused_log_density(y, weights[:, 1:], c)
    with pytest.raises(ValueError, match="float32"):
        fused.fused_log_density(y.double(), weights.double(), c.double())


def test_works_without_a_compiler(monkeypatch):
    monkeypatch.setattr(network, "kernel_is_available", lambda: False)
    ensemble = EnergyEnsemble(range(2))
    x, y = inputs(2, 3, 4)
    assert torch.equal(ensemble.log_density_fn(x)(y), ensemble.log_density_fn(x, True)(y))


def test_definition_has_second_derivatives():
    ensemble = EnergyEnsemble([0]).double()
    x, y = inputs(1, 2, 3, torch.float64)
    fn = ensemble.log_density_fn(x, True)
    assert torch.autograd.gradgradcheck(fn, y.requires_grad_())


@pytest.mark.parametrize("twice_differentiable", [True, False])
def test_models_do_not_touch_each_other(twice_differentiable):
    x, y = inputs(3, 4, 20)
    whole = EnergyEnsemble([4, 5, 6], seed=9)
    found = values_and_gradients(whole, x, y, twice_differentiable)
    with torch.no_grad():
        whole.joint_weight[1] = torch.nan
    poisoned = values_and_gradients(whole, x, y, twice_differentiable)
    for a, b in zip(found, poisoned):
        a, b = a.reshape(3, -1), b.reshape(3, -1)
        assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert poisoned[0].reshape(3, -1)[1].isnan().all()
    alone = EnergyEnsemble([6], seed=9).log_density_fn(x[2:], twice_differentiable)(y[8:])
    torch.testing.assert_close(alone, found[0][8:])
