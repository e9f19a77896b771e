"""Quality of a learned density by quadrature on a grid: divergence from the truth, NLL."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ebm_mmdet.energy import MixtureDensity
from ebm_mmdet.energy.importance import ess_ratio
from ebm_mmdet.energy.quadrature import log_trapezoid_weights, map_in_chunks

from .data import Dataset
from .network import Ensemble

__all__ = [
    "Grid",
    "evaluation_grid",
    "kl_divergence",
    "kl_to_truth",
    "log_probability_table",
    "negative_log_likelihood",
    "proposal_ess",
    "summarise",
]


class Grid(NamedTuple):
    """The points at which densities are compared."""

    x: Tensor
    """(X,) float32."""
    y: Tensor
    """(Y,) float32, equally spaced, ends included."""
    log_p: Tensor
    """(X, Y) float64, log of the true probabilities, which sum to 1 over y."""


def evaluation_grid(dataset: Dataset, num_x: int = 2048, num_y: int | None = None) -> Grid:
    """The grid of the paper: x and y equally spaced, ends included (2048 points each)."""
    x = torch.linspace(*dataset.x_range, num_x)
    y = torch.linspace(*dataset.y_range, num_y or dataset.y_points)
    return Grid(x, y, log_probability_table(dataset.true_log_density, x, y))


def log_probability_table(true_log_density, x: Tensor, y: Tensor) -> Tensor:
    """Table (X, Y) float64 of log P, with P_j ∝ p(y_j | x) + 1e-30, Σ_j P_j = 1."""
    log_density = true_log_density(x.double()[:, None], y.double()[None, :])
    # The 1e-30 is the paper's; its effect is too small to be measured.
    floor = torch.tensor(1e-30, dtype=torch.float64).log()
    return torch.logaddexp(log_density, floor).log_softmax(-1)


def kl_divergence(log_p: Tensor, log_density: Tensor) -> Tensor:
    """Divergence of a model from the truth, both restricted to the grid, for every x.

        KL = Σ_j P_j (log P_j - log Q_j),   Q = softmax_j f(x, y_j)

    Mass of the model outside the grid does not count, and a constant added to f has no effect.

    Source: Gustafsson et al., BMVC 2020 (arXiv:2005.01698), D_KL. In the paper, exponentials are
    computed in float32, and a model for which their sum vanishes is replaced by the uniform
    density; here logarithms are used, and a model fails only if f is not finite.

    Args:
        log_p: (X, Y) float64, from :func:`log_probability_table`.
        log_density: (..., X, Y) f.

    Returns:
        (..., X) float64, in nats; NaN where an f is not finite.
    """
    f = log_density.double()
    kl = (log_p.exp() * (log_p - f.log_softmax(-1))).sum(-1)
    return kl.where(f.isfinite().all(-1), torch.nan)


@torch.no_grad()
def kl_to_truth(ensemble: Ensemble, grid: Grid) -> Tensor:
    """D_KL (E,) float64 of every model: :func:`kl_divergence` averaged over the x of the grid."""
    p = grid.log_p.exp()
    negative_entropy = (p * grid.log_p).sum(-1)

    def divergence(part: slice) -> Tensor:
        f = _on_grid(ensemble, grid.x[part], grid.y).double()
        # kl_divergence multiplied out (Σ P = 1), so that no table of log Q is written.
        cross_entropy = f.logsumexp(-1) - torch.einsum("xy,exy->ex", p[part], f)
        return (negative_entropy[part] + cross_entropy).sum(1)

    parts = map_in_chunks(divergence, len(grid.x), ensemble.num_models * len(grid.y))
    return sum(parts) / len(grid.x)


@torch.no_grad()
def negative_log_likelihood(ensemble: Ensemble, dataset: Dataset) -> Tensor:
    """Mean -log p(y | x) (E,) float64 over the test pairs, with Z by the trapezoid rule.

    In nats, for the density restricted to ``dataset.y_range``; NaN for a model that failed.
    """
    y = torch.linspace(*dataset.y_range, dataset.y_points)
    log_weight, models = log_trapezoid_weights(y), ensemble.num_models

    def nll(part: slice) -> Tensor:
        x, target = dataset.test_x[part], dataset.test_y[part]
        log_z = (_on_grid(ensemble, x, y).double() + log_weight).logsumexp(-1)
        x, target = x.expand(models, -1), target.expand(models, -1)
        f = ensemble.log_density_fn(x)(target.reshape(-1, 1, 1)).view(models, -1)
        return (log_z - f).sum(1)

    return sum(map_in_chunks(nll, len(dataset.test_x), models * len(y))) / len(dataset.test_x)


@torch.no_grad()
def proposal_ess(
    energy: Ensemble,
    proposal: Callable[[Tensor], MixtureDensity],
    x: Tensor,
    generator: torch.Generator,
    num_samples: int = 1024,
) -> Tensor:
    """Mean effective sample size of a learned proposal, as a fraction of the samples.

        ESS / M = 1 / (M Σ_m w_m²),   w = softmax_m(f(x, y_m) - log q(y_m | x)),   y_m ~ q(. | x)

    Args:
        energy: f.
        proposal: function from x (E, B) to the densities q of the E·B pairs of model and input.
        x: (X,) inputs to average over.
        generator: source of randomness.
        num_samples: M.

    Returns:
        (E,) float64, in [1/M, 1]; NaN for a model that failed.
    """
    models = energy.num_models

    def ess(part: slice) -> Tensor:
        inputs = x[part].expand(models, -1)
        q = proposal(inputs)
        y = q.draw(num_samples, generator)
        logits = energy.log_density_fn(inputs)(y).double() - q.log_prob(y)
        return ess_ratio(logits).view(models, -1).sum(1)

    return sum(map_in_chunks(ess, len(x), models * num_samples)) / len(x)


def _on_grid(ensemble: Ensemble, x: Tensor, y: Tensor) -> Tensor:
    """Evaluate f (E, X, Y) at all pairs."""
    models = ensemble.num_models
    points = y.expand(models * len(x), -1).unsqueeze(-1)
    return ensemble.log_density_fn(x.expand(models, -1))(points).view(models, len(x), len(y))


def summarise(values: Tensor, best: int = 5) -> dict[str, float]:
    """Mean and population spread of the best models and of all that did not fail.

    Args:
        values: (E,) one number per model, where smaller is better; not finite for a failed model.
        best: number of the smallest values that count as best.

    Returns:
        ``best_mean``, ``best_std``, ``mean``, ``std``, ``median`` (NaN if no model is left),
        ``failed`` and ``models``.
    """
    finite = values[values.isfinite()].sort().values
    chosen = finite[:best]
    nan = float("nan")
    return {
        "best_mean": float(chosen.mean()) if len(chosen) else nan,
        "best_std": float(chosen.std(correction=0)) if len(chosen) else nan,
        "mean": float(finite.mean()) if len(finite) else nan,
        "std": float(finite.std(correction=0)) if len(finite) else nan,
        "median": float(finite.quantile(0.5)) if len(finite) else nan,
        "failed": len(values) - len(finite),
        "models": len(values),
    }
