import math

import numpy as np
import pytest
import torch

from ebm_mmdet.energy import MixtureDensity
from lab.regression1d.data import load_dataset
from lab.regression1d.evaluation import (
    evaluation_grid,
    kl_divergence,
    kl_to_truth,
    negative_log_likelihood,
    proposal_ess,
    summarise,
)
from lab.regression1d.network import EnergyEnsemble


@pytest.fixture(scope="module")
def grids():
    return {name: evaluation_grid(load_dataset(name)) for name in ("1", "2")}


def mean_kl(grid, log_density):
    return float(kl_divergence(grid.log_p, log_density).mean())


@pytest.mark.parametrize("name", ["1", "2"])
def test_truth_against_itself(grids, name):
    assert grids[name].log_p.shape == (2048, 2048)
    assert abs(mean_kl(grids[name], grids[name].log_p)) < 1e-9
    shifts = torch.tensor([1e4, -1e4], dtype=torch.float64).repeat(1024)[:, None]
    assert abs(mean_kl(grids[name], grids[name].log_p + shifts)) < 1e-9


@pytest.mark.parametrize(("name", "expected"), [("1", 2.1188), ("2", 3.2785)])
def test_uniform_model(grids, name, expected):
    flat = torch.zeros(1, 1).expand_as(grids[name].log_p)
    assert mean_kl(grids[name], flat) == pytest.approx(expected, abs=1e-3)


def test_gaussian_with_the_true_moments(grids):
    grid = grids["1"]
    y, p = grid.y.double(), grid.log_p.exp()
    mean = (p * y).sum(1, keepdim=True)
    variance = (p * (y - mean).square()).sum(1, keepdim=True)
    gaussian = -0.5 * (y - mean).square() / variance
    assert mean_kl(grid, gaussian) == pytest.approx(0.6999, abs=1e-3)
    kl = kl_divergence(grid.log_p, gaussian)
    assert float(kl[grid.x < 0].mean()) == pytest.approx(1.353, abs=1e-3)
    assert float(kl[grid.x >= 0].mean()) == pytest.approx(0.047, abs=1e-3)


def smoothed(name, grid, sigmas):
    """Log of the true density, convolved with an equal mixture of Gaussians."""
    dataset = load_dataset(name)
    x, y = grid.x.double()[:, None], grid.y.double()[None, :]
    if name == "2":
        s = 0.15 * torch.sigmoid(x)
        parts = []
        for sigma in sigmas:
            variance = s.square() + sigma**2
            parts.append(-0.5 * (y - x.sin()).square() / variance - 0.5 * variance.log())
    else:
        # Gauss-Hermite quadrature of E p(y - σ ξ).
        nodes, weights = np.polynomial.hermite_e.hermegauss(24)
        parts = []
        for sigma in sigmas:
            total = torch.zeros_like(grid.log_p)
            for node, weight in zip(nodes, weights / math.sqrt(2 * math.pi)):
                total += weight * dataset.true_log_density(x, y - sigma * node).exp()
            parts.append((total + 1e-300).log())
    return torch.stack(parts).logsumexp(0)


@pytest.mark.parametrize(
    ("name", "sigmas", "expected"),
    [
        ("1", [0.025], 0.0014),
        ("2", [0.025], 0.0979),
        ("1", [0.2], 0.3281),
        ("2", [0.075], 0.3929),
        ("1", [0.0025, 0.02], 0.0002),
        ("2", [0.0025, 0.02], 0.0244),
    ],
    ids=["kld-is-1", "kld-is-2", "dsm-1", "dsm-2", "nceplus-1", "nceplus-2"],
)
def test_floors_of_the_smoothing_methods(grids, name, sigmas, expected):
    whole = grids[name]
    grid = whole._replace(x=whole.x[8::16], log_p=whole.log_p[8::16])
    assert mean_kl(grid, smoothed(name, grid, sigmas)) == pytest.approx(expected, abs=1e-3)


def test_kl_of_an_ensemble_is_that_of_its_models():
    dataset, ensemble = load_dataset("1"), EnergyEnsemble(range(3), seed=5)
    grid = evaluation_grid(dataset, 40, 300)
    x, y = grid.x.expand(3, -1), grid.y.expand(120, -1).unsqueeze(-1)
    with torch.no_grad():
        f = ensemble.log_density_fn(x, twice_differentiable=True)(y).view(3, 40, 300)
    expected = kl_divergence(grid.log_p, f).mean(1)
    torch.testing.assert_close(kl_to_truth(ensemble, grid), expected, rtol=1e-5, atol=1e-6)


def test_a_failed_model_fails_alone():
    dataset, ensemble = load_dataset("1"), EnergyEnsemble(range(3))
    grid = evaluation_grid(dataset, 8, 64)
    before = kl_to_truth(ensemble, grid)
    with torch.no_grad():
        ensemble.residual1_weight[1, 2, 3] = torch.nan
    after, nll = kl_to_truth(ensemble, grid), negative_log_likelihood(ensemble, dataset)
    assert after.isnan().tolist() == nll.isnan().tolist() == [False, True, False]
    assert torch.equal(after[[0, 2]], before[[0, 2]])


def test_likelihood_of_a_flat_model_is_that_of_the_range():
    ensemble = EnergyEnsemble(range(2))
    torch.nn.init.zeros_(ensemble.out_weight)
    nll = negative_log_likelihood(ensemble, load_dataset("1"))
    torch.testing.assert_close(nll, torch.full((2,), math.log(6), dtype=torch.float64))


def test_effective_samples_of_a_known_density():
    """A bimodal p and a Gaussian q, by quadrature: ESS / M = 0.3576 for every model."""
    log_weights = torch.tensor([[0.8, 0.2]]).log()
    p = MixtureDensity(
        log_weights.repeat(40, 1),
        torch.tensor([[[-1.0], [1.0]]]).repeat(40, 1, 1),
        torch.full((40, 2, 1), math.log(0.3)),
    )

    class Model:
        num_models = 2

        def log_density_fn(self, x):
            assert x.shape == (2, 20)
            return lambda y: (
                p.log_prob(y) + torch.tensor([1e3, -1e3]).repeat_interleave(20)[:, None]
            )

    def wide(x):
        log_sigma = torch.full((x.numel(), 1, 1), math.log(1.2))
        return MixtureDensity(torch.zeros(x.numel(), 1), torch.zeros_like(log_sigma), log_sigma)

    x, noise = torch.zeros(20), torch.Generator().manual_seed(0)
    ess = proposal_ess(Model(), wide, x, noise)
    torch.testing.assert_close(
        ess, torch.full((2,), 0.3576, dtype=torch.float64), rtol=0, atol=0.01
    )
    exact = proposal_ess(Model(), lambda _: p, x, noise)
    torch.testing.assert_close(exact, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)


def test_summary_leaves_failures_out_and_counts_them():
    values = torch.tensor([3.0, float("nan"), 1.0, 2.0, float("inf"), 10.0], dtype=torch.float64)
    found = summarise(values, best=2)
    assert (found["failed"], found["models"]) == (2, 6)
    assert (found["best_mean"], found["best_std"]) == (1.5, 0.5)
    assert (found["mean"], found["median"]) == (4.0, 2.5)
    assert math.isnan(summarise(values[[1]])["best_mean"])
