"""The mathematics of energy-based regression: torch only, for targets of any dimension.

Everything here exchanges one type, the :class:`LogDensityFn` of :mod:`.log_density`, and knows
nothing of detectors, boxes or images.

    distributions   where to look: noise around a target
    losses          pure functions of log-densities
    objectives      how f is trained: draw, score, apply a loss
    refinement      how a prediction is made: climb f
    priors          what the first estimate knows, for the climb
"""

from .distributions import Density, GaussianMixtureNoise
from .log_density import LogDensityFn, SelectableLogDensityFn
from .losses import nce_loss
from .objectives import NCEObjective
from .priors import fit_residual_std, prior_step_size, with_gaussian_prior
from .refinement import RefinementResult, RefinementTrace, gradient_ascent

__all__ = [
    "Density",
    "GaussianMixtureNoise",
    "LogDensityFn",
    "NCEObjective",
    "RefinementResult",
    "RefinementTrace",
    "SelectableLogDensityFn",
    "fit_residual_std",
    "gradient_ascent",
    "nce_loss",
    "prior_step_size",
    "with_gaussian_prior",
]
