"""The training methods of the 1D studies by name, with the hyper-parameters of the papers.

    ml-is  kld-is  nce  nceplus  sm  dsm  ml-mcmc-L    an energy network; L Langevin steps
    nce-mdn-K  ml-is-mdn-K                             the same with a learned proposal of K parts
    mdn-K  mdn-teacher-K                               a stand-alone mixture density network

A method is described by a plain dictionary, as in the configs of ``configs/regression1d``;
:func:`build_trainee` builds the networks and the objective from it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ebm_mmdet.energy import GaussianMixtureNoise, MixtureDensity, objectives
from ebm_mmdet.energy.reduction import reduce_loss

from .data import Dataset
from .network import EnergyEnsemble, Ensemble
from .proposals import MixtureEnsemble

__all__ = [
    "PAPER_METHODS",
    "PROPOSAL_METHODS",
    "SWEPT_METHODS",
    "CommonNoise",
    "Trainee",
    "build_trainee",
    "method_config",
]

SWEPT_METHODS = ("ml-is", "kld-is", "nce", "nceplus")
PAPER_METHODS = (*SWEPT_METHODS, "sm", "dsm", "ml-mcmc-16")
PROPOSAL_METHODS = (
    "nce",
    *("nce-mdn-1", "nce-mdn-4", "nce-mdn-16", "ml-is-mdn-4"),
    *("mdn-1", "mdn-4", "mdn-16", "mdn-teacher-4"),
)

# Standard deviations for each data set. Those of ML-IS, KLD-IS, DSM and MCMC for the third set are
# ours, because the paper trains only NCE on it.
_NCE_NOISE = {"1": [0.1, 0.8], "2": [0.1, 0.8], "umal": [0.4, 3.2]}
_IS_NOISE = {"1": [0.2, 1.6], "2": [0.2, 1.6], "umal": [0.8, 6.4]}
_DSM_SIGMA = {"1": 0.2, "2": 0.075, "umal": 0.2}
_MCMC_STEP = {"1": 0.05, "2": 0.0125, "umal": 0.05}
_LABEL_SIGMA = 0.025
_BETA = 0.025
# If a sample costs many times as much as in ML-IS (17 passes, a double backward pass, K Gaussians),
# the requested M is divided by this number. The papers use the same M for all methods.
SAMPLE_DIVISORS = {"ml-mcmc": 16, "dsm": 16, "nce-mdn": 4, "ml-is-mdn": 4, "mdn-teacher": 4}


def method_config(name: str, dataset: str, num_samples: int) -> dict:
    """The description of a method on a data set.

    Args:
        name: see the docstring of this module.
        dataset: ``"1"``, ``"2"`` or ``"umal"``.
        num_samples: M, samples per target besides the target itself. Score matching and ``mdn-K``
            have none; DSM and MCMC use a sixteenth of it and learned proposals a quarter
            (:data:`SAMPLE_DIVISORS`), because their samples are expensive.

    Returns:
        ``objective``: ``type`` and arguments of an objective of :mod:`ebm_mmdet.energy`, with which
        an energy network is trained; absent for ``mdn-K``. ``mixture``: settings of a mixture
        density network, for methods with one. ``num_samples``: M as used, 0 for none.

    Raises:
        ValueError: the method is unknown.
    """
    family, size = _parse(name)
    m = max(1, num_samples // SAMPLE_DIVISORS.get(family, 1))
    nce_noise, is_noise = (
        {"type": "GaussianMixtureNoise", "sigmas": sigmas[dataset], "dim": 1}
        for sigmas in (_NCE_NOISE, _IS_NOISE)
    )
    if family == "sm":
        return {"num_samples": 0, "objective": {"type": "ScoreMatchingObjective"}}
    if family == "mdn":
        return {"num_samples": 0, "mixture": {"num_components": size, "standalone": True}}
    config: dict = {"num_samples": m}
    if family == "ml-is":
        config["objective"] = {"type": "MLISObjective", "noise": is_noise, "num_noise": m}
    elif family == "kld-is":
        config["objective"] = {
            "type": "KLDISObjective",
            "noise": is_noise,
            "num_samples": m,
            "label_sigma": _LABEL_SIGMA,
        }
    elif family in ("nce", "nceplus"):
        beta = _BETA if family == "nceplus" else 0.0
        config["objective"] = {
            "type": "NCEObjective",
            "noise": nce_noise,
            "num_noise": m,
            "beta": beta,
        }
    elif family == "dsm":
        sigma = _DSM_SIGMA[dataset]
        config["objective"] = {"type": "DSMObjective", "sigma": sigma, "num_samples": m}
    elif family == "ml-mcmc":
        config["objective"] = {
            "type": "MCMCObjective",
            "step_size": _MCMC_STEP[dataset],
            "num_steps": size,
            "num_samples": m,
        }
    else:
        teacher = family == "mdn-teacher"
        config["objective"] = {"type": "ProposalObjective", "num_noise": m}
        if family == "ml-is-mdn":
            config["objective"]["form"] = "ml-is"
        if teacher:
            config["objective"] |= {"proposal_weight": 0.5, "nll_weight": 0.5}
        config["mixture"] = {"num_components": size, "standalone": teacher}
    return config


def _parse(name: str) -> tuple[str, int]:
    """Family and number of a method name; 0 if it has no number."""
    if name in ("ml-is", "kld-is", "nce", "nceplus", "sm", "dsm"):
        return name, 0
    match = re.fullmatch(r"(ml-mcmc|nce-mdn|ml-is-mdn|mdn-teacher|mdn)-([1-9]\d*)", name)
    if match is None:
        raise ValueError(
            f"method {name!r} is unknown; choose from ml-is, kld-is, nce, nceplus, sm, dsm, "
            "ml-mcmc-L, nce-mdn-K, ml-is-mdn-K, mdn-K and mdn-teacher-K, with numbers L and K."
        )
    return match[1], int(match[2])


class CommonNoise:
    """A density whose samples for the B targets of one model are used for all models.

    Every model has its own targets, so it is trained exactly as if it were alone; only the noise of
    different models is not independent. Sampling becomes E times cheaper, and the result of a model
    does not depend on which others are trained with it.

    Args:
        noise: a density of offsets.
        num_models: number of models E; targets are ordered by model.
    """

    def __init__(self, noise: GaussianMixtureNoise, num_models: int) -> None:
        self.noise, self.num_models = noise, num_models

    def sample(
        self, n: int, num_samples: int, generator: torch.Generator | None = None, **options
    ) -> tuple[Tensor, Tensor]:
        """Draw offsets (n, S, D) and log q (n, S), as in ``Density``, repeated E times."""
        drawn = self.noise.sample(n // self.num_models, num_samples, generator, **options)
        return tuple(t.repeat(self.num_models, *[1] * (t.dim() - 1)) for t in drawn)

    def log_prob(self, offsets: Tensor) -> Tensor:
        """Log-density (...) of offsets (..., D)."""
        return self.noise.log_prob(offsets)

    def scaled(self, beta: float) -> CommonNoise:
        """The same density with every standard deviation multiplied by ``beta``."""
        return CommonNoise(self.noise.scaled(beta), self.num_models)

    @property
    def shared(self) -> bool:
        """Whether all targets get the same offsets."""
        return self.noise.shared

    @property
    def antithetic(self) -> bool:
        """Whether offsets come in pairs, which some objectives do not accept."""
        return self.noise.antithetic


class Trainee(nn.Module):
    """The networks that are trained, and the density that is evaluated afterwards.

    Args:
        objective: as in :func:`method_config`, or None to fit the mixture by maximum likelihood.
        energy: f, or None.
        mixture: q, or None. Without its own x branch it gets the detached features of f.
        standalone: whether the mixture has its own x branch and is the result; else f is.
    """

    def __init__(
        self,
        objective,
        energy: EnergyEnsemble | None,
        mixture: MixtureEnsemble | None,
        standalone: bool = False,
    ) -> None:
        super().__init__()
        self.objective, self.energy, self.mixture = objective, energy, mixture
        self.standalone = standalone

    @property
    def density(self) -> Ensemble:
        """The density that predicts: the mixture if it stands alone, else f."""
        return self.mixture if self.standalone else self.energy

    def proposal(self, x: Tensor) -> MixtureDensity:
        """The densities q (N = E·B) for x (E, B); f gets no gradient from them."""
        if self.standalone:
            return self.mixture(x)
        return self.mixture.from_features(self.energy.x_features(x).detach())

    def loss(self, x: Tensor, y: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor:
        """Σ_e mean_b of the per-target losses, for x, y (E, B) and factors ``weight`` (E·B,)."""
        targets, batch = y.reshape(-1, 1), y.shape[1]
        if self.energy is None:
            nll = -self.mixture(x).log_prob(targets.unsqueeze(1)).squeeze(1)
            return reduce_loss(nll, weight, avg_factor=batch)
        arguments = {"weight": weight, "avg_factor": batch, "generator": generator}
        if self.mixture is not None:
            arguments["proposal"] = self.proposal(x)
        twice = isinstance(
            self.objective, (objectives.ScoreMatchingObjective, objectives.DSMObjective)
        )
        return self.objective(self.energy.log_density_fn(x, twice), targets, **arguments)["loss"]


def build_trainee(config: dict, dataset: Dataset, models: Sequence[int], seed: int) -> Trainee:
    """Networks and objective of a method.

    Args:
        config: as :func:`method_config` returns it.
        dataset: determines the scale of a mixture.
        models: indices of the models.
        seed: seed of the run.

    Raises:
        ValueError: the objective or its noise is of an unknown type.
    """
    objective = energy = mixture = None
    if "objective" in config:
        energy = EnergyEnsemble(models, seed)
        objective = _build_objective(config["objective"], len(models))
    settings = config.get("mixture")
    if settings is not None:
        mixture = MixtureEnsemble(models, seed, y=dataset.y, **settings)
    return Trainee(objective, energy, mixture, bool(settings and settings["standalone"]))


def _build_objective(config: dict, num_models: int):
    arguments = dict(config)
    kind = arguments.pop("type")
    if kind not in objectives.__all__:
        raise ValueError(
            f"objective type {kind!r} is unknown; choose from {', '.join(objectives.__all__)}."
        )
    if "noise" in arguments:
        noise = dict(arguments["noise"])
        if noise.pop("type", None) != "GaussianMixtureNoise":
            raise ValueError(
                f"noise {arguments['noise']} of an unknown type; use 'GaussianMixtureNoise'."
            )
        arguments["noise"] = CommonNoise(GaussianMixtureNoise(**noise), num_models)
    return getattr(objectives, kind)(**arguments)
