"""Gradient and Hessian trace of f against quadratics, and in every mode of the caller."""

import math

import pytest
import torch

from ebm_mmdet.energy import grad_log_density, hessian_trace


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def symmetric(dim):
    root = normal(dim, dim, seed=dim)
    return root @ root.T + 0.1 * torch.eye(dim, dtype=torch.float64)


def quadratic(matrix, vector):
    """f = -½ yᵀ A y + bᵀ y."""
    return lambda y: -0.5 * ((y @ matrix) * y).sum(-1) + y @ vector


def network(dim=3):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(dim, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    return net.double(), lambda y: net(y).squeeze(-1)


@pytest.mark.parametrize("dim", [1, 3, 7])
def test_quadratic_in_closed_form(dim):
    matrix, vector, y = symmetric(dim), normal(dim), normal(4, 5, dim, seed=1)
    f = quadratic(matrix, vector)
    torch.testing.assert_close(grad_log_density(f, y), vector - y @ matrix, rtol=0, atol=1e-10)
    grad, trace = hessian_trace(f, y)
    torch.testing.assert_close(grad, vector - y @ matrix, rtol=0, atol=1e-10)
    expected = -matrix.trace().expand(4, 5)
    torch.testing.assert_close(trace, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dim", [3, 7])
def test_hutchinson_error_is_that_of_the_off_diagonal(dim):
    matrix = symmetric(dim)
    f = quadratic(matrix, torch.zeros(dim, dtype=torch.float64))
    y = torch.zeros(1, 100, dim, dtype=torch.float64)
    estimates = hessian_trace(f, y, "hutchinson", probes=100, generator=seeded())[1]
    off_diagonal = matrix - matrix.diag().diag()
    error = math.sqrt(2 * off_diagonal.square().sum().item() / 1e4)
    assert (estimates.mean() + matrix.trace()).abs().item() < 5 * error
    assert estimates.std().item() == pytest.approx(10 * error, rel=0.35)


def test_hutchinson_is_exact_without_off_diagonal():
    """Always for D = 1, and for a diagonal Hessian: probes are signs, not Gaussians."""
    matrix = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64).diag()
    y = normal(2, 3, 3)
    f = quadratic(matrix, torch.zeros(3, dtype=torch.float64))
    trace = hessian_trace(f, y, "hutchinson", generator=seeded())[1]
    torch.testing.assert_close(trace, torch.full_like(trace, -4.5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["exact", "hutchinson"])
def test_trace_of_a_network_matches_autograd_functional(method):
    net, f = network()
    y = normal(2, 4, 3)
    grad, trace = hessian_trace(f, y, method, probes=4, generator=seeded())
    for n, s in [(0, 0), (1, 3)]:
        hessian = torch.func.hessian(lambda point: net(point)[0])(y[n, s])
        if method == "exact":
            torch.testing.assert_close(trace[n, s], hessian.trace())
        else:
            assert trace[n, s] != hessian.trace()
        torch.testing.assert_close(
            grad[n, s], torch.func.grad(lambda point: net(point)[0])(y[n, s])
        )


@pytest.mark.parametrize("method", ["exact", "hutchinson"])
def test_can_be_trained_on(method):
    """Third derivatives: gradcheck of gradient and trace in a parameter of f."""
    y = normal(2, 3, 2)

    def values(parameter):
        def f(y):
            return torch.sin(parameter * y).prod(-1) + (parameter.pow(3) * y.pow(4)).sum(-1)

        return hessian_trace(f, y, method, generator=seeded(), create_graph=True)

    assert torch.autograd.gradcheck(values, normal(2, seed=2).requires_grad_())


def test_affine_f_has_no_curvature():
    slope = normal(3).requires_grad_()
    grad, trace = hessian_trace(lambda y: y @ slope, normal(2, 4, 3), create_graph=True)
    assert torch.equal(trace, torch.zeros(2, 4, dtype=torch.float64))
    (back,) = torch.autograd.grad(grad.square().sum() + trace.sum(), slope)
    torch.testing.assert_close(back, 2 * 8 * slope)
    grad, trace = hessian_trace(lambda y: y.sum(-1), normal(2, 4, 3))
    assert (grad == 1).all()
    assert (trace == 0).all()


@pytest.mark.parametrize("function", [grad_log_density, hessian_trace])
def test_without_graph_everything_is_detached_and_no_grad_is_touched(function):
    net, f = network()
    y = normal(2, 3, 3).requires_grad_()
    results = function(f, y)
    for result in results if isinstance(results, tuple) else (results,):
        assert not result.requires_grad
    assert y.grad is None
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("function", [grad_log_density, hessian_trace])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_in_any_mode(function, mode):
    _, f = network()
    y = normal(2, 3, 3)
    expected = function(f, y)
    with mode():
        torch.testing.assert_close(function(f, y), expected, rtol=0, atol=0)
        torch.testing.assert_close(function(f, y.clone()), expected, rtol=0, atol=0)


def test_autocast_is_off_inside():
    net, f = network()
    net.float()
    y = normal(2, 3, 3).float()
    expected = grad_log_density(f, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(grad_log_density(f, y), expected)


def test_half_precision_points_become_float32():
    assert (
        grad_log_density(lambda y: y.square().sum(-1), normal(1, 2, 3).bfloat16()).dtype
        == torch.float32
    )


def test_no_points():
    _, f = network()
    for shape in [(0, 5, 3), (4, 0, 3)]:
        grad, trace = hessian_trace(f, torch.zeros(shape, dtype=torch.float64))
        assert grad.shape == shape
        assert trace.shape == shape[:2]


def test_refuses_what_cannot_be_differentiated():
    y = normal(2, 3, 3)
    with pytest.raises(RuntimeError, match="remove the no_grad"):
        grad_log_density(lambda y: y.detach().sum(-1), y)
    with pytest.raises(RuntimeError, match="remove the no_grad"):
        hessian_trace(lambda y: torch.zeros(2, 3, requires_grad=True) + 1, y)
    with pytest.raises(ValueError, match="'sliced' is unknown"):
        hessian_trace(lambda y: y.sum(-1), y, "sliced")
    with pytest.raises(ValueError, match="probes=0"):
        hessian_trace(lambda y: y.sum(-1), y, "hutchinson", probes=0)
