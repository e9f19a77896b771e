"""Training objectives: draw points around each target, score them, apply a loss.

    nce                  NCE and NCE+                  one call of f
    importance_sampling  ML-IS and KLD-IS              one call of f
    score_matching       SM and DSM                    one call of f, differentiated twice
    mcmc                 ML-MCMC                       one call of f per Langevin step, and one more
    proposal             f together with a proposal    one call of f

Each is a frozen dataclass that fulfils the contract :class:`.contracts.Objective` and does not
depend on detectors. ``num_noise`` counts the points at which f is evaluated besides the target
(NCE, ML-IS, a learned proposal), and ``num_samples`` the samples or chains if the target is not one
of several candidates (KLD-IS, DSM, MCMC).
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
