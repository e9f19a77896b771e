"""The mathematics of energy-based regression: torch only, for targets of any dimension.

Everything here exchanges one type, the :class:`LogDensityFn`, and does not depend on detectors,
boxes or images.

    contracts       what parts exchange, and the methods that a part of your own needs
    distributions   noise around a target, from which training draws points
    losses          pure functions of log-densities and their derivatives
    derivatives     gradient and Hessian trace of f
    langevin        samples of p by short chains
    proposals       a learned distribution of points: a mixture density network
    importance      moments and samples of p from those of a proposal
    objectives      training of f: draw points, evaluate f, apply a loss
    refinement      prediction by gradient ascent on f
    regression_steps  first steps by a regression that f has to approve
    steps           the steps of that ascent, and how to need fewer
    modes           several modes of f, and their masses
    partial_refinement  refinement of some targets; the others stay
    quadrature      integrals over one coordinate, on a grid
    priors          a Gaussian prior around the first estimate
    conformal       intervals whose coverage holds whatever the density is
"""

from .conformal import (
    conformal_quantile,
    expected_coverage,
    fewest_scores,
    grouped_quantiles,
    interval_scores,
)
from .contracts import (
    Density,
    LogDensityFn,
    Objective,
    Proposal,
    ProposalLogDensityFn,
    RefinementResult,
    RefinementTrace,
    Refiner,
    RegressingLogDensityFn,
    SelectableLogDensityFn,
)
from .derivatives import grad_log_density, hessian_trace
from .distributions import GaussianMixtureNoise
from .importance import (
    ImportanceWeights,
    importance_covariance,
    importance_mean,
    importance_weights,
    resample,
)
from .langevin import langevin
from .losses import (
    dsm_loss,
    kld_is_loss,
    mcmc_loss,
    mdn_teacher_loss,
    ml_is_loss,
    nce_loss,
    proposal_kl_loss,
    score_matching_loss,
)
from .modes import (
    best_of_groups,
    distinct_modes,
    highest_end,
    mass_around,
    mass_by_nearest,
    samples_around,
)
from .objectives import (
    DSMObjective,
    KLDISObjective,
    MCMCObjective,
    MLISObjective,
    NCEObjective,
    ProposalObjective,
    ScoreMatchingObjective,
)
from .partial_refinement import RefineChosen
from .priors import fit_residual_std, prior_step_size, with_gaussian_prior
from .proposals import MixtureDensity, MixtureDensityHead
from .refinement import evaluate_only, gradient_ascent
from .regression_steps import regression_steps

__all__ = [
    "DSMObjective",
    "Density",
    "GaussianMixtureNoise",
    "ImportanceWeights",
    "KLDISObjective",
    "LogDensityFn",
    "MCMCObjective",
    "MLISObjective",
    "MixtureDensity",
    "MixtureDensityHead",
    "NCEObjective",
    "Objective",
    "Proposal",
    "ProposalLogDensityFn",
    "ProposalObjective",
    "RefineChosen",
    "RefinementResult",
    "RefinementTrace",
    "Refiner",
    "RegressingLogDensityFn",
    "ScoreMatchingObjective",
    "SelectableLogDensityFn",
    "best_of_groups",
    "conformal_quantile",
    "distinct_modes",
    "dsm_loss",
    "evaluate_only",
    "expected_coverage",
    "fewest_scores",
    "fit_residual_std",
    "grad_log_density",
    "gradient_ascent",
    "grouped_quantiles",
    "hessian_trace",
    "highest_end",
    "importance_covariance",
    "importance_mean",
    "importance_weights",
    "interval_scores",
    "kld_is_loss",
    "langevin",
    "mass_around",
    "mass_by_nearest",
    "mcmc_loss",
    "mdn_teacher_loss",
    "ml_is_loss",
    "nce_loss",
    "prior_step_size",
    "proposal_kl_loss",
    "regression_steps",
    "resample",
    "samples_around",
    "score_matching_loss",
    "with_gaussian_prior",
]
