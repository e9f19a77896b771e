"""Training objectives: draw points around each target, score them, apply a loss.

    nce             NCE and NCE+                     one call of f
    importance      ML-IS and KLD-IS                 one call of f
    score_matching  SM and DSM                       one call of f, differentiated twice
    mcmc            ML-MCMC                          one call of f per Langevin step, and one more
    proposal        f together with a proposal       one call of f

An objective is called as ``objective(log_density_fn, targets (N, D), weight=None, avg_factor=None,
generator=None) -> dict`` and knows nothing of detectors. ``loss`` is what is minimised; every other
entry is a detached scalar for the log, and has no "loss" in its name, because mmengine sums all
entries that have.

    log_density_fn  f, bound to the features of the N targets
    targets         (N, D) encoded annotations y*; N may be 0, the loss is then a zero connected to
                    whatever the function returns
    weight          (N,) factor per target
    avg_factor      divisor that replaces N
    generator       source of randomness, on the device of the targets

``num_samples`` counts every point that is scored per target, as the papers do: the target and the
samples where f is evaluated at both (NCE, ML-IS, a learned proposal), the samples alone elsewhere.
"""

from .importance_sampling import KLDISObjective, MLISObjective
from .mcmc import MCMCObjective
from .nce import NCEObjective
from .proposal import ProposalObjective
from .score_matching import DSMObjective, ScoreMatchingObjective

__all__ = [
    "DSMObjective",
    "KLDISObjective",
    "MCMCObjective",
    "MLISObjective",
    "NCEObjective",
    "ProposalObjective",
    "ScoreMatchingObjective",
]
