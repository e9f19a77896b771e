"""The prior around the first estimate, against the closed form of Gaussian times Gaussian."""

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from ebm_mmdet.energy import (
    fit_residual_std,
    gradient_ascent,
    prior_step_size,
    with_gaussian_prior,
)
from ebm_mmdet.energy.priors import _precisions_without_reads


class Quadratic:
    """f = -½ Σ c (y - m)² with a mode per target, and ``select``."""

    def __init__(self, mode, curvature):
        self.mode, self.curvature = mode, curvature

    def __call__(self, y):
        return -0.5 * (self.curvature * (y - self.mode[:, None]).square()).sum(-1)

    def select(self, index):
        return Quadratic(self.mode[index], self.curvature)


MODE = torch.tensor([[0.3, -0.1], [0.0, 0.2], [-0.4, 0.05]], dtype=torch.float64)
CURVATURE = torch.tensor([50.0, 400.0], dtype=torch.float64)
STD = torch.tensor([0.1, 0.05], dtype=torch.float64)
F = Quadratic(MODE, CURVATURE)


def mode_with_prior(scale, temperature, mean=None, num_steps=200):
    mean = torch.zeros(2, dtype=torch.float64) if mean is None else mean
    posterior = with_gaussian_prior(F, mean, STD, scale, temperature)
    y0 = mean.expand(3, 2)
    return gradient_ascent(posterior, y0, prior_step_size(STD, scale), num_steps).y


@pytest.mark.parametrize(("scale", "temperature"), [(1.0, 1.0), (0.5, 2.0), (2.0, 0.1)])
@pytest.mark.parametrize("per_target", [False, True])
def test_maximum_a_posteriori_in_closed_form(scale, temperature, per_target):
    mean = torch.tensor([0.05, -0.02], dtype=torch.float64)
    mean = mean * torch.arange(3)[:, None] if per_target else mean
    precision = (scale * STD) ** -2
    pull = temperature * CURVATURE
    expected = (pull * MODE + precision * mean) / (pull + precision)
    actual = mode_with_prior(scale, temperature, mean)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def lower_triangles(correlation, n=3):
    """L (n, 2, 2) of covariances with the standard deviations ``STD``, growing from box to box."""
    unit = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.float64)
    covariance = torch.outer(STD, STD) * unit
    growth = 1 + torch.arange(n, dtype=torch.float64)[:, None, None]
    return torch.linalg.cholesky(growth * covariance)


@pytest.mark.parametrize("correlation", [0.0, 0.6, -0.9])
@pytest.mark.parametrize(("scale", "temperature"), [(1.0, 1.0), (0.5, 2.0)])
def test_maximum_a_posteriori_with_correlations_in_closed_form(correlation, scale, temperature):
    """y = (τA + P)⁻¹ (τA m + P ŷ),  P = (s² L Lᵀ)⁻¹, A the curvature and m the mode of f."""
    root = lower_triangles(correlation)
    mean = torch.tensor([[0.05, -0.02], [0.0, 0.1], [-0.1, 0.03]], dtype=torch.float64)
    precision = torch.linalg.inv(scale**2 * root @ root.mT)
    pull = temperature * torch.diag(CURVATURE)
    right = pull @ MODE.unsqueeze(2) + precision @ mean.unsqueeze(2)
    expected = torch.linalg.solve(pull + precision, right).squeeze(2)
    posterior = with_gaussian_prior(F, mean, root, scale, temperature)
    found = gradient_ascent(posterior, mean, prior_step_size(root, scale), 400).y
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    if correlation:
        diagonal = precision.diagonal(dim1=1, dim2=2)
        alone = (pull.diagonal() * MODE + diagonal * mean) / (pull.diagonal() + diagonal)
        assert (found - alone).abs().max() > 1e-3


def test_value_with_correlations_is_that_of_torch_multivariate_normal():
    y = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    root = lower_triangles(0.7)
    for mean in (MODE[0], MODE):
        normal = MultivariateNormal(mean.expand(3, 2).unsqueeze(1), scale_tril=2 * root[:, None])
        expected = 0.5 * F(y) + normal.log_prob(y)
        posterior = with_gaussian_prior(F, mean, root, scale=2.0, temperature=0.5)
        torch.testing.assert_close(posterior(y), expected)
        index = torch.tensor([2, 0])
        torch.testing.assert_close(posterior.select(index)(y[index]), expected[index])


def test_a_diagonal_triangle_is_a_standard_deviation():
    y = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    std = STD * torch.tensor([[1.0], [2.0], [3.0]])
    plain, full = (with_gaussian_prior(F, MODE, p, 0.5) for p in (std, torch.diag_embed(std)))
    torch.testing.assert_close(plain(y), full(y))
    steps = [prior_step_size(p, 0.5, 0.7) for p in (std, torch.diag_embed(std))]
    torch.testing.assert_close(steps[0], steps[1])


@pytest.mark.parametrize("correlation", [0.6, -0.95])
def test_steps_of_a_correlated_prior_leave_rho_of_the_way(correlation):
    """Where f is flat every step is accepted, and the distance shrinks by |ρ| in the metric P."""
    root = lower_triangles(correlation)
    mean = torch.zeros(3, 2, dtype=torch.float64)
    y0 = torch.tensor([[0.3, -0.2], [0.1, 0.4], [0.0, 0.1]], dtype=torch.float64)
    flat = with_gaussian_prior(lambda y: 0 * y.sum(-1), mean, root)
    result = gradient_ascent(flat, y0, prior_step_size(root), 12, return_trace=True)
    assert (result.accepted == 12).all()
    z = torch.linalg.solve_triangular(root, result.trace.y.unsqueeze(3), upper=False).squeeze(3)
    distance = z.norm(dim=2)
    assert (distance[1:] <= abs(correlation) * distance[:-1] * (1 + 1e-9)).all()


def test_mode_depends_on_temperature_and_scale_through_k_alone():
    """k = τ s²: (1, 1), (4, ½) and (¼, 2) share one mode; k = 2 has another."""
    modes = [mode_with_prior(s, t) for s, t in [(1, 1), (0.5, 4), (2, 0.25), (1, 2)]]
    for mode in modes[1:3]:
        torch.testing.assert_close(mode, modes[0], rtol=0, atol=1e-6)
    assert (modes[3] - modes[0]).abs().max() > 0.01


def test_number_of_steps_no_longer_matters():
    answers = [mode_with_prior(1.0, 1.0, num_steps=t) for t in (30, 60)]
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=1e-4)


def test_value_is_that_of_torch_normal():
    y = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for mean, std in [(MODE[0], STD), (MODE, STD.expand(3, 2) * torch.rand(3, 1))]:
        rows = [p if p.dim() == 1 else p[:, None] for p in (mean, std)]
        expected = 0.5 * F(y) + Normal(rows[0], 2 * rows[1]).log_prob(y).sum(-1)
        posterior = with_gaussian_prior(F, mean, std, scale=2.0, temperature=0.5)
        torch.testing.assert_close(posterior(y), expected)
        index = torch.tensor([2, 0])
        torch.testing.assert_close(posterior.select(index)(y[index]), expected[index])


def test_offers_select_only_if_f_does():
    posterior = with_gaussian_prior(lambda y: F(y), torch.zeros(2), STD)
    assert not hasattr(posterior, "select")


def test_newton_step_of_the_prior_reaches_the_mean_of_a_flat_f_at_once():
    mean = torch.tensor([0.3, -0.2], dtype=torch.float64)
    flat = with_gaussian_prior(lambda y: 0 * y.sum(-1), mean, STD, scale=0.5)
    y0 = torch.zeros(2, 2, dtype=torch.float64)
    at_once = gradient_ascent(flat, y0, prior_step_size(STD, 0.5), 1)
    torch.testing.assert_close(at_once.y, mean.expand(2, 2))
    half = gradient_ascent(flat, y0, prior_step_size(STD, 0.5, factor=0.5), 1)
    torch.testing.assert_close(half.y, mean.expand(2, 2) / 2)


def test_precisions_without_reads_are_those_of_the_inverse():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(50, 4, 4, generator=generator, dtype=torch.float64).tril()
    root.diagonal(dim1=1, dim2=2).abs_().add_(0.1)
    step_size = prior_step_size(root, scale=0.5)
    torch.testing.assert_close(0.25 / _precisions_without_reads(root), step_size)


@pytest.mark.parametrize("std", [torch.zeros(2), torch.zeros(3, 2, 2)])
def test_values_that_were_checked_before_are_not_read_again(std):
    with_gaussian_prior(F, torch.zeros(2), std, validate=False)
    gradient_ascent(F, torch.zeros(3, 2), -torch.ones(3, 2), 0, validate=False)


def test_works_when_everything_was_made_in_inference_mode():
    with torch.inference_mode():
        mean, std = torch.zeros(3, 2), torch.full((3, 2), 0.1)
        for spread in (std, torch.diag_embed(std)):
            posterior = with_gaussian_prior(lambda y: -y.square().sum(-1), mean, spread)
            result = gradient_ascent(posterior, mean + 1, prior_step_size(spread), 30)
            torch.testing.assert_close(result.y, torch.zeros(3, 2), rtol=0, atol=1e-3)


def test_refuses_what_is_no_prior():
    flat = torch.tensor([[0.1, 0.0], [0.05, 0.0]]).expand(3, 2, 2)
    for std in (torch.tensor([0.1, 0.0]), torch.tensor([0.1, torch.nan]), flat):
        with pytest.raises(ValueError, match="std must be positive"):
            with_gaussian_prior(F, torch.zeros(2), std)
    for arguments in ({"scale": 0.0}, {"temperature": -1.0}, {"scale": float("nan")}):
        with pytest.raises(ValueError, match="do not wrap"):
            with_gaussian_prior(F, torch.zeros(2), STD, **arguments)


def gaussian_residuals(n=100_000):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, generator=generator, dtype=torch.float64) * STD


@pytest.mark.parametrize("robust", [None, "clip", "mad"])
def test_fit_recovers_a_gaussian(robust):
    torch.testing.assert_close(
        fit_residual_std(gaussian_residuals(), robust), STD, rtol=0.02, atol=0
    )


def test_fit_resists_outliers():
    residuals = gaussian_residuals()
    residuals[::20] *= 20
    assert (fit_residual_std(residuals, "mad") / STD < 1.1).all()
    assert (fit_residual_std(residuals, "clip") / STD < 1.25).all()
    assert (fit_residual_std(residuals, None) / STD > 4).all()


def test_fit_counts_bias_as_inaccuracy():
    biased = gaussian_residuals() + STD
    torch.testing.assert_close(fit_residual_std(biased, None), STD * 2**0.5, rtol=0.02, atol=0)


def test_fit_leaves_out_rows_that_are_not_finite():
    residuals = gaussian_residuals(1000)
    broken = residuals.clone()
    broken[3, 0], broken[7, 1] = torch.nan, torch.inf
    kept = torch.cat([residuals[:3], residuals[4:7], residuals[8:]])
    assert torch.equal(fit_residual_std(broken), fit_residual_std(kept))


def test_fit_refuses_what_it_cannot_fit():
    for residuals, message in [
        (torch.zeros(0, 4), "no finite residual"),
        (torch.full((3, 4), torch.nan), "no finite residual"),
        (torch.zeros(3, 4), "must be positive"),
        (torch.zeros(3), r"expected \(n, D\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit_residual_std(residuals)
    with pytest.raises(ValueError, match="robust='huber'"):
        fit_residual_std(torch.ones(3, 4), "huber")
