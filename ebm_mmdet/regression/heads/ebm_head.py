"""Energy-based regression: p(y | x) ∝ exp f(x, y), trained by any objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from mmdet.registry import MODELS, TASK_UTILS
from torch import Tensor

from ...energy import (
    Density,
    LogDensityFn,
    MixtureDensity,
    MixtureDensityHead,
    Objective,
    ProposalObjective,
)
from ...energy.importance import ImportanceWeights, importance_weights
from ...energy.log_density import evaluate_finite
from ...energy.objectives.proposal import check_residual_objective
from ...energy.quadrature import log_trapezoid_weights
from ..adaptive_proposal import adaptive_proposal
from ..data_sample import RegressionDataSample
from ..densities import BoundedMixture, DefensiveProposal, WrappedMixture, WrappedNoise, on_circles
from ..posterior import Posterior
from .energy_network import EnergyNetwork
from .image_log_density import (
    ImageLogDensity,
    OnSupport,
    ProposalImageLogDensity,
    ResidualImageLogDensity,
)
from .mixture_head import LOG_SIGMA_RANGE
from .regression_head import PredictionSettings, RegressionHead

__all__ = ["EBMRegressionHead"]

# Standard deviations of the default noise, standardised: one narrow, one as wide as the labels.
_NOISE = (0.05, 1.5)
_NUM_NOISE = 1024


@MODELS.register_module()
class EBMRegressionHead(RegressionHead):
    r"""Energy-based regression: a network f(x, y) whose exponential is a density of the label.

        p(y | x) = exp f(x, y) / ∫ exp f(x, y') dy',   the integral over the declared ranges

    f is an :class:`.EnergyNetwork` of the image features h and of the standardised label, trained
    by any :class:`~ebm_mmdet.energy.Objective`. With a proposal, a mixture density network on h
    **without gradient to h** is trained beside it, and supplies the samples in training and in
    prediction. So f and the backbone learn from f's loss alone, and the mixture from its own.

    Prediction, see :class:`.PredictionSettings`:

    - one coordinate, ``method='grid'``: the trapezoid rule over the support;
    - otherwise self-normalised importance sampling with the defensive proposal
      (1 - ε) q + ε U(support). log Z is corrected for its known bias,

          log Z ≈ logsumexp_m(f - log q') - log M + ½ (1/ESS - 1/M)

    - without a learned proposal and with several coordinates, q is found for every image by
      :func:`.adaptive_proposal`, which costs four times as many evaluations of f.

    With ``residual=True`` the network is a correction g of the mixture q:

        f(x, y) = log q(y | x) + g(x, y),   J_NCE trains g, q constant;   NLL of q trains q

    Both train the features. At g = 0 the density is the mixture, and the noise of NCE is the
    density that g corrects, so narrow peaks, which a network in y builds slowly, come from q, and
    their shape from g.

    Source: Gustafsson et al., ECCV 2020 (arXiv:1909.12297) and AISTATS 2022 (arXiv:2110.11948);
    energies as corrections of a density: Deng et al., ICLR 2020 (arXiv:2004.11714).

    Args:
        in_channels: C, width of the pooled features.
        codec: config of the codec.
        y_dims: widths of the layers that read the label.
        hidden: width of the fusion layer.
        objective: config of the objective. Default: ``ProposalObjective`` with a proposal, else
            ``NCEObjective`` with noise of σ = 0.05 and 1.5; 1024 samples each. σ is in
            standardised units.
        proposal: ``dict(num_components=4, hidden=C, log_sigma_range=...)``, see
            :class:`~ebm_mmdet.energy.MixtureDensityHead`; None for a head without a proposal.
        residual: whether f = log q + g. The default objective is then ``ProposalObjective`` with
            ``proposal_weight=0, nll_weight=1``.
        act_cfg: activation of f, ReLU by default; score matching needs a smooth one.
        y_gain: factor on the standardised label before the first layer.
        f_gain: factor on the network's output. Both set how sharp a density can become in few
            steps: the steps of Adam are about as large as the learning rate, whatever the
            gradient, and a narrow peak needs large slopes. The released networks have no factors
            (1 and 1), read labels in their own units, whose standard deviations are about 15 to
            60, and train for 75 epochs.
        **kwargs: those of :class:`.RegressionHead`.

    Raises:
        ValueError: noise for another number of coordinates than the codec has; a proposal
            objective without a proposal, or the reverse, which would train nothing; or a residual
            head without a proposal, or with an objective whose J_KL would pull q towards an energy
            that contains it.
    """

    objective: Objective

    def __init__(
        self,
        in_channels: int,
        codec: dict,
        y_dims: Sequence[int] = (16, 32, 64, 128),
        hidden: int = 512,
        objective: dict | None = None,
        proposal: dict | None = None,
        act_cfg: dict | None = None,
        y_gain: float = 5.0,
        f_gain: float = 10.0,
        residual: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(in_channels, codec, **kwargs)
        for name, gain in (("y_gain", y_gain), ("f_gain", f_gain)):
            if not 0 < gain < float("inf"):
                raise ValueError(f"{name}={gain} must be positive and finite; 1 is no factor.")
        dim, self.y_gain, self.f_gain = self.codec.dim, float(y_gain), float(f_gain)
        self.energy = EnergyNetwork(in_channels, self.codec.embedded_dim, y_dims, hidden, act_cfg)
        self.proposal = None
        if proposal is not None:
            settings = {"num_components": 4, "log_sigma_range": LOG_SIGMA_RANGE, **proposal}
            self.proposal = MixtureDensityHead(in_channels, dim, **settings)
        self.residual = residual
        self.objective = self._build_objective(objective)
        self._check_residual()
        self.proposal_warm_up = False
        """Whether the proposal learns from the labels alone; ``ProposalWarmUpHook`` sets it."""

    def _build_objective(self, config: dict | None) -> Objective:
        if config is None and self.proposal is not None:
            config = dict(type="ProposalObjective", num_noise=_NUM_NOISE)
            if self.residual:
                config.update(proposal_weight=0.0, nll_weight=1.0)
        elif config is None:
            noise = dict(type="GaussianMixtureNoise", sigmas=_NOISE, dim=self.codec.dim)
            config = dict(type="NCEObjective", noise=noise, num_noise=_NUM_NOISE)
        config = dict(config)
        if isinstance(config.get("noise"), dict):
            config["noise"] = TASK_UTILS.build(config["noise"])
        if "noise" in config:
            self._check_noise(config["noise"])
        if "noise" in config and self.codec.is_periodic:
            config["noise"] = WrappedNoise(config["noise"], self.codec)
        objective: Objective = TASK_UTILS.build(config)
        if isinstance(objective, ProposalObjective) != (self.proposal is not None):
            raise ValueError(
                f"EBMRegressionHead with objective {type(objective).__name__} and "
                f"proposal={'None' if self.proposal is None else 'dict(...)'}: ProposalObjective "
                "needs a proposal, and no other objective would train one. Give both or none; the "
                "teacher of a TeacherRegressor has none, because the student is its proposal."
            )
        return objective

    def _check_noise(self, noise: Density) -> None:
        # Noise of one coordinate would be added to all of them alike, and f trained on a diagonal.
        dim = getattr(noise, "dim", self.codec.dim)
        if dim != self.codec.dim:
            raise ValueError(
                f"noise of dim={dim} for a codec with {self.codec.dim} ranges: every coordinate "
                f"needs its own; set objective.noise.dim={self.codec.dim}, or give rows of as many "
                "sigmas."
            )

    def _check_residual(self) -> None:
        if not self.residual:
            return
        if self.proposal is None:
            raise ValueError(
                "residual=True corrects a learned proposal, and proposal=None; set "
                "proposal=dict(num_components=4)."
            )
        check_residual_objective(self.objective)

    def evaluate(self, image_part: Tensor, z: Tensor) -> Tensor:
        """Evaluate the network (N, S) at standardised points z (N, S, D), in nats."""
        return self.f_gain * self.energy(image_part, self.y_gain * self.codec.embed(z))

    def propose(self, h: Tensor) -> MixtureDensity | WrappedMixture:
        """The proposals of N images with features h (N, C); a gradient reaches h if residual."""
        if self.proposal is None:
            raise RuntimeError("this head has no proposal; set proposal=dict(num_components=4).")
        return on_circles(self.proposal(h if self.residual else h.detach()), self.codec)

    def log_density_fn(self, h: Tensor) -> ImageLogDensity:
        """Bind f to N images with features h (N, C), of any precision and made in any mode."""
        recording = torch.is_grad_enabled()  # which leaving inference mode would switch on
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(recording),
            torch.autocast(h.device.type, enabled=False),
        ):
            h = h.clone() if h.is_inference() else h
            kind = ImageLogDensity
            if self.proposal is not None:
                kind = ResidualImageLogDensity if self.residual else ProposalImageLogDensity
            return kind(self, h, self.energy.image_part(h))

    def loss(self, h: Tensor, data_samples: Sequence[RegressionDataSample]) -> dict[str, Tensor]:
        """``loss_energy`` and the diagnostics of the objective as ``energy_<name>``."""
        objective = self.objective
        if self.proposal_warm_up and isinstance(objective, ProposalObjective):
            objective = dataclasses.replace(objective, proposal_weight=0.0, nll_weight=1.0)
        out = objective(self.log_density_fn(h), self.encoded_targets(data_samples))
        losses = {f"energy_{name}": value for name, value in out.items() if name != "loss"}
        return {"loss_energy": self.loss_weight * out["loss"], **losses}

    def posterior(self, h: Tensor, settings: PredictionSettings) -> Posterior:
        """See the class.

        Raises:
            ValueError: a grid is asked for, and there are several coordinates.
        """
        fn = OnSupport(self.log_density_fn(h), self.codec)
        method = settings.method
        if method == "auto":
            method = "grid" if self.proposal is None and self.codec.dim == 1 else "samples"
        if method == "samples":
            return self._sampled(fn, h, settings)
        if self.codec.dim != 1:
            raise ValueError(
                f"method='grid' is for one coordinate, and this head has {self.codec.dim}: a grid "
                "that resolves their densities has too many points. Use method='samples'."
            )
        return self._on_grid(fn, len(h), settings)

    def _on_grid(self, fn: LogDensityFn, n: int, settings: PredictionSettings) -> Posterior:
        low, high = self.codec.low, self.codec.high
        unit = torch.linspace(0, 1, settings.grid_points, dtype=torch.float64, device=low.device)
        line = (low + unit * (high - low)).clamp(low, high)
        points = line.to(low).view(1, -1, 1).expand(n, -1, -1)
        f = evaluate_finite(fn, points)
        logits = f.double() + log_trapezoid_weights(line)
        log_z = logits.logsumexp(1)
        weights = (logits - log_z[:, None]).exp()
        return Posterior(points, weights.float(), fn, f, log_z.float(), ess=None, codec=self.codec)

    def _sampled(self, fn: OnSupport, h: Tensor, settings: PredictionSettings) -> Posterior:
        generator, count = settings.generator(h.device), settings.num_samples
        if self.proposal is not None:
            mixture = self.proposal(h)
        else:
            mixture = adaptive_proposal(fn, self.codec, len(h), count, generator)
        q = DefensiveProposal(
            BoundedMixture(mixture, self.codec), self.codec, settings.uniform_share
        )
        points, log_q = q.sample(count, generator)
        f = evaluate_finite(fn, points)
        if not len(h):
            empty = f.new_zeros(0)
            return Posterior(points, f, fn, f, empty, empty, self.codec)
        w = importance_weights(f, log_q)
        return Posterior(points, w.weights, fn, f, corrected_log_z(w), w.ess, self.codec)


def corrected_log_z(w: ImportanceWeights) -> Tensor:
    """Estimate log Z (N,) from M samples, without most of its bias: log Ẑ + ½ (1/ESS - 1/M).

    E log Ẑ = log Z - Var Ẑ / 2 Z² to second order, and Var Ẑ / Z² ≈ 1/ESS - 1/M, which also is the
    variance of the estimate. Where ESS is 0, nothing is known and nothing corrected.
    """
    correction = 0.5 * (1 / w.ess - 1 / w.weights.shape[1])
    return w.log_z + correction.where(w.ess > 0, 0)
