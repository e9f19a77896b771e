"""Self-normalised importance sampling against closed forms, quadrature values and numpy."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from ebm_mmdet.energy import importance as module
from ebm_mmdet.energy import (
    importance_covariance,
    importance_mean,
    importance_weights,
    resample,
)
from ebm_mmdet.energy.importance import ess_ratio, importance_diagnostics


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def bimodal_log_prob(y):
    """p = 0.8 N(-1, 0.3²) + 0.2 N(1, 0.3²); its mean is -0.6."""
    weights = torch.tensor([0.8, 0.2], dtype=torch.float64)
    means = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    mixture = MixtureSameFamily(Categorical(weights), Normal(means, 0.3 * torch.ones_like(means)))
    return mixture.log_prob(y)


def broad_samples(n, m, seed=0):
    """Samples of q = N(0, 1.2²), (n, m, 1), and their log q (n, m)."""
    y = 1.2 * normal(n, m, 1, seed=seed)
    zero = torch.zeros((), dtype=torch.float64)
    return y, Normal(zero, 1.2).log_prob(y.squeeze(-1))


@pytest.fixture(autouse=True)
def _forget_the_warning(monkeypatch):
    monkeypatch.setattr(module._Warned, "already", False)


def test_mean_and_effective_sample_size_of_the_bimodal_example():
    y, log_q = broad_samples(1, 100_000)
    weights = importance_weights(bimodal_log_prob(y.squeeze(-1)) + 7.0, log_q)
    assert importance_mean(y, weights.weights).item() == pytest.approx(-0.6, abs=0.017)
    assert weights.ess.item() / 1e5 == pytest.approx(0.3576, abs=0.01)
    assert weights.log_z.item() == pytest.approx(7.0, abs=5 * math.sqrt((1 / 0.3576 - 1) / 1e5))


def test_covariance_of_the_bimodal_example():
    """Var = 0.09 + 1 - 0.36."""
    y, log_q = broad_samples(1, 100_000)
    w = importance_weights(bimodal_log_prob(y.squeeze(-1)), log_q).weights
    variance = importance_covariance(y, w, importance_mean(y, w))
    assert variance.item() == pytest.approx(0.73, abs=0.02)


def test_exact_proposal():
    log_p = normal(3, 500)
    weights = importance_weights(log_p, log_p)
    torch.testing.assert_close(weights.weights, torch.full_like(log_p, 1 / 500), rtol=0, atol=1e-9)
    torch.testing.assert_close(weights.ess, torch.full_like(weights.ess, 500.0), rtol=1e-9, atol=0)
    torch.testing.assert_close(weights.log_z, torch.zeros_like(weights.log_z), rtol=0, atol=1e-9)


def test_diagnostics_are_those_of_the_weights():
    log_f, log_q = 0.5 * torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)).double()
    weights = importance_weights(log_f, log_q)
    found = importance_diagnostics(log_f, log_q)
    torch.testing.assert_close(found["ess_ratio"], weights.ess.mean() / 16)
    torch.testing.assert_close(found["log_z"], weights.log_z.mean())
    torch.testing.assert_close(found["logit_max"], (log_f - log_q).amax(1).mean())
    log_f[0, 0] = torch.nan
    assert ess_ratio(log_f - log_q).isnan().tolist() == [True] + 4 * [False]


def test_normalised_density_from_log_z():
    """A correlated Gaussian in R^3, known up to a constant: log p(y) = f(y) - log Z."""
    root = torch.tensor([[1.0, 0, 0], [0.5, 0.8, 0], [-0.3, 0.2, 0.5]], dtype=torch.float64)
    target = MultivariateNormal(normal(3) * 0.3, scale_tril=root)
    y = 1.6 * normal(4, 200_000, 3, seed=1)
    log_q = Normal(torch.zeros((), dtype=torch.float64), 1.6).log_prob(y).sum(-1)
    f = target.log_prob(y) - 3.0
    weights, log_z, ess = importance_weights(f, log_q)
    assert (ess > 10_000).all()
    torch.testing.assert_close(log_z, torch.full_like(log_z, -3.0), rtol=0, atol=0.02)
    mean = importance_mean(y, weights)
    torch.testing.assert_close(mean, target.mean.expand(4, 3), rtol=0, atol=0.03)
    covariance = importance_covariance(y, weights, mean)
    expected = target.covariance_matrix.expand(4, 3, 3)
    torch.testing.assert_close(covariance, expected, rtol=0, atol=0.05)


def test_moments_match_numpy():
    y, w = normal(2, 50, 3), normal(2, 50, seed=1).softmax(1)
    mean = importance_mean(y, w)
    covariance = importance_covariance(y, w, mean)
    assert torch.equal(covariance, covariance.mT)
    for row in range(2):
        np.testing.assert_allclose(mean[row], np.average(y[row], axis=0, weights=w[row]))
        expected = np.cov(y[row].T, aweights=w[row], ddof=0)
        np.testing.assert_allclose(covariance[row], expected, rtol=1e-10)
        assert np.linalg.eigvalsh(covariance[row]).min() > 0


def test_angles_have_a_circular_mean_and_wrapped_deviations():
    """Around π: half the samples at π - 0.1, half at -π + 0.1; coordinate 0 is no angle."""
    angle = torch.tensor([math.pi - 0.1, -math.pi + 0.1], dtype=torch.float64)
    y = torch.stack([angle, angle], dim=-1).expand(3, 2, 2)
    w = torch.full((3, 2), 0.5, dtype=torch.float64)
    periodic = torch.tensor([False, True])
    mean = importance_mean(y, w, periodic)
    torch.testing.assert_close(mean[:, 0], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(mean[:, 1].abs(), torch.full((3,), math.pi, dtype=torch.float64))
    covariance = importance_covariance(y, w, mean, periodic)
    assert covariance[0, 1, 1].item() == pytest.approx(0.01)
    assert covariance[0, 0, 0].item() == pytest.approx((math.pi - 0.1) ** 2)


def test_narrow_angles_agree_with_the_ordinary_moments():
    y, w = 2.0 + 1e-3 * normal(2, 50, 2), normal(2, 50, seed=1).softmax(1)
    every = torch.tensor([True, True])
    mean = importance_mean(y, w)
    circular = importance_mean(y, w, every)
    torch.testing.assert_close(circular, mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(
        importance_covariance(y, w, circular, every), importance_covariance(y, w, mean)
    )


def test_resampling_the_bimodal_example():
    y, log_q = broad_samples(1, 100_000)
    w = importance_weights(bimodal_log_prob(y.squeeze(-1)), log_q).weights
    drawn = resample(y, w, 100_000, seeded(1))
    assert drawn.shape == (1, 100_000, 1)
    assert (drawn > 0).double().mean().item() == pytest.approx(0.2003, abs=0.016)
    assert torch.isin(drawn, y).all()


def test_resampling_keeps_targets_and_points_apart():
    y = torch.arange(12.0).view(2, 3, 2)
    w = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    drawn = resample(y, w, 200, seeded())
    assert (drawn[0] == y[0, 1]).all()
    rows = {tuple(point) for point in drawn[1].tolist()}
    assert rows == {tuple(y[1, 0].tolist()), tuple(y[1, 2].tolist())}
    assert torch.equal(drawn, resample(y, w, 200, seeded()))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_samples_without_a_finite_f_weigh_nothing(bad):
    log_f, log_q = normal(2, 6), normal(2, 6, seed=1)
    log_f[0, 2] = bad
    weights = importance_weights(log_f, log_q)
    kept = [0, 1, 3, 4, 5]
    expected = importance_weights(log_f[:1, kept], log_q[:1, kept])
    assert weights.weights[0, 2] == 0
    torch.testing.assert_close(weights.weights[:1, kept], expected.weights)
    torch.testing.assert_close(weights.ess[:1], expected.ess)
    torch.testing.assert_close(weights.log_z[0], expected.log_z[0] + math.log(5 / 6))


def test_target_without_any_finite_f_keeps_its_proposal():
    log_f = torch.full((1, 4), -math.inf)
    with pytest.warns(RuntimeWarning):
        weights, log_z, ess = importance_weights(log_f, torch.zeros(1, 4))
    assert (weights == 0.25).all()
    assert log_z.item() == -math.inf
    assert ess.item() == 0


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extremes(scale):
    log_f = torch.tensor([[scale, 0.0, -scale], [scale, scale, scale]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        single = importance_weights(log_f, torch.full((2, 3), -1e3))
        double = importance_weights(log_f.double(), torch.full((2, 3), -1e3).double())
    for a, b in zip(single, double):
        assert a.isfinite().all()
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


def test_meaningless_estimates_are_reported_once():
    log_q = torch.zeros(3, 50)
    one_wins = torch.zeros(3, 50)
    one_wins[0, 7] = 100.0
    with pytest.warns(RuntimeWarning, match=r"1 of 3 targets .* below 2 of 50"):
        importance_weights(one_wins, log_q)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importance_weights(one_wins, log_q)


def test_meaningful_estimates_are_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importance_weights(torch.zeros(3, 50), torch.zeros(3, 50))
        importance_weights(torch.zeros(0, 50), torch.zeros(0, 50))
        importance_weights(torch.zeros(3, 1), torch.zeros(3, 1))


def test_gradients_flow_and_are_right():
    y = normal(2, 5, 2)

    def moments(log_f, log_q):
        w, log_z, ess = importance_weights(log_f, log_q)
        mean = importance_mean(y, w)
        return mean, importance_covariance(y, w, mean), log_z, ess

    inputs = [normal(2, 5, seed=s).requires_grad_() for s in (1, 2)]
    assert torch.autograd.gradcheck(moments, inputs)


def test_no_targets_and_half_precision():
    w, log_z, ess = importance_weights(torch.zeros(0, 8), torch.zeros(0, 8))
    y = torch.zeros(0, 8, 4)
    mean = importance_mean(y, w)
    assert (mean.shape, log_z.shape, ess.shape) == ((0, 4), (0,), (0,))
    assert importance_covariance(y, w, mean).shape == (0, 4, 4)
    assert resample(y, w, 5).shape == (0, 5, 4)

    log_f = normal(2, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        w, log_z, _ = importance_weights(log_f, torch.zeros(2, 8))
        y = normal(2, 8, 4).float()
        mean = importance_mean(y, w)
        covariance = importance_covariance(y, w, mean)
    assert {t.dtype for t in (w, log_z, mean, covariance)} == {torch.float32}
    torch.testing.assert_close(covariance, importance_covariance(y, w, mean))


def test_refuses_other_shapes():
    m, y = torch.zeros(2, 5), torch.zeros(2, 5, 3)
    for bad in (m[:, :4], m[0], torch.zeros(2, 0)):
        with pytest.raises(ValueError, match=r"must both be \(N, M\)"):
            importance_weights(bad if bad.numel() == 0 else m, bad)
    for call in (
        lambda: importance_mean(y, m[:, :4]),
        lambda: importance_covariance(m, m, m),
        lambda: resample(y, m[:1], 3),
    ):
        with pytest.raises(ValueError, match=r"must be \(N, M, D\) and \(N, M\)"):
            call()
