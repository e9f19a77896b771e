"""The energy head with a learned proposal distribution of boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS, TASK_UTILS
from torch import Tensor, nn

from ...energy import MixtureDensity, MixtureDensityHead
from ...energy.float32_linear import Float32Linear
from ...energy.log_density import is_finite
from ...energy.objectives.proposal import check_residual_objective
from ..box_coding import decode_boxes, encode_boxes
from .box_log_density import BoxLogDensity
from .ebm_bbox_head import EBMBBoxHead
from .feature_standardizer import FeatureStandardizer

__all__ = ["ProposalBoxLogDensity", "ProposalEBMBBoxHead"]


class ProposalBoxLogDensity(BoxLogDensity):
    """A log-density of boxes that comes with a proposal in the same coordinates."""

    def proposal(self) -> MixtureDensity:
        """The N densities q(u | x, reference) of offsets u from ``reference``."""
        return self.head.propose(self.feats, self.reference, self.batch_index)


class ResidualBoxLogDensity(ProposalBoxLogDensity):
    """f = log q + g: the proposal, constant in f's gradient, and the network's correction g."""

    learned: MixtureDensity | None = None

    def proposal(self) -> MixtureDensity:
        """The N densities q(u | x, reference), made at the first call and kept."""
        if self.learned is None:
            recording = torch.is_grad_enabled()  # which leaving inference mode would switch on
            with torch.inference_mode(False), torch.set_grad_enabled(recording):
                self.learned = super().proposal()
        return self.learned

    def __call__(self, offsets: Tensor) -> Tensor:
        # Where a coordinate is not finite, g is -inf, to which NaN must not be added.
        known = offsets.masked_fill(~is_finite(offsets), 0)
        return self.proposal().detach().log_prob(known) + super().__call__(offsets)

    def select(self, index: Tensor) -> ResidualBoxLogDensity:
        """The same function for a subset of its targets, ``index`` (n,) int64."""
        selected = super().select(index)
        selected.learned = self.proposal().select(index)
        return selected


@MODELS.register_module()
class ProposalEBMBBoxHead(EBMBBoxHead):
    r"""``EBMBBoxHead`` with a mixture density network on the features of a reference box.

        h = ReLU(Linear(standardise(PrRoIPool(x, r)))), without gradient to x
        q(u | x, r) = Σ_k π_k(h) N(u; μ_k(h), diag σ_k(h)²)

    ``u`` are offsets from the reference box ``r``, which is the detection at test time. Both
    exp f and q are densities of u, so f - log q needs no Jacobian. Training does not use
    detections: the reference is a jittered annotation that replaces a detection,

        r = decode(δ, y*),   δ ~ reference_noise,   target u* = encode(y*, r)

    and ``reference_noise`` should have the spread of the detector's residuals
    (``tools/analysis_tools/fit_residual_prior.py`` prints it), because q learns where the truth
    lies **given** such a detection. Each object gets ``num_references`` of them per iteration: q
    learns from one offset of each, where an ordinary regressor learns from every jittered box.

    With ``residual=True`` the network is a correction g of the proposal:

        f(u | x, r) = log q(u | x, r) + g(x, decode(u, r));   J_NCE trains g, and the NLL of u* q

    At g = 0 the density is that of a probabilistic regressor, whose mean is what a regression head
    predicts; g is what it cannot say: correlated sides, skewed and several peaks. f then depends on
    the reference, and is its normalised log-density where g = 0.

    Two measures keep q from diverging, which it does otherwise. Pooled features are standardised
    per channel, so that q can distinguish shifts of a few percent. And σ is bounded, because f is
    constant far outside the image, where exp f has no finite integral and J_KL would widen q for
    ever. A σ beyond its bounds still gets the gradients that lead it back
    (:func:`~ebm_mmdet.energy.recoverable_clamp.recoverable_clamp`).

    Args:
        proposal: arguments of :class:`~ebm_mmdet.energy.MixtureDensityHead`: ``num_components``,
            ``hidden`` (which is also the width of h) and others. By default ``target_std`` is the
            spread of ``reference_noise``.
        reference_noise: config of a ``GaussianMixtureNoise`` over R^4.
        log_sigma_range: limits of log(σ / target_std).
        target_noise: config of a ``GaussianMixtureNoise``, or None. For NCE+, where the annotation
            is inaccurate too: the target is ``encode(decode(ν, y*), r)`` with ν drawn from it.
        residual: whether f = log q + g. The objective is then ``ProposalObjective`` with
            ``proposal_weight=0`` and a positive ``nll_weight``.
        num_references: number of references per object and iteration; the objective evaluates f at
            ``1 + num_noise`` boxes for each of them.
        objective: ``ProposalObjective``.
        **kwargs: those of ``EBMBBoxHead``.

    Raises:
        ValueError: ``num_references`` is below 1, ``residual`` with another objective, or a
            ``regression`` is given.

    Source: Gustafsson et al., "Learning Proposals for Practical Energy-Based Regression", AISTATS
    2022 (arXiv:2110.11948), for boxes (which the paper does not do); energies as corrections of a
    density: Deng et al., ICLR 2020 (arXiv:2004.11714).
    """

    def __init__(
        self,
        *,
        proposal: dict,
        reference_noise: dict,
        objective: dict,
        log_sigma_range: tuple[float, float] = (-3.0, 1.0),
        target_noise: dict | None = None,
        residual: bool = False,
        num_references: int = 1,
        **kwargs,
    ) -> None:
        super().__init__(objective=objective, **kwargs)
        if self.regresses:
            raise ValueError(
                f"regression={kwargs['regression']}: ProposalEBMBBoxHead has a proposal, whose "
                "mean is a regression; leave it out, or use EBMBBoxHead"
            )
        if not isinstance(self.pool_size, int):
            raise ValueError(
                f"pool_size={self.pool_size}: the proposal reads one grid of bins; give one number"
            )
        if num_references < 1:
            raise ValueError(f"num_references={num_references}; give 1 or more")
        if residual:
            check_residual_objective(self.objective)
        self.residual, self.num_references = residual, num_references
        self.reference_noise = TASK_UTILS.build(reference_noise)
        self.target_noise = TASK_UTILS.build(target_noise) if target_noise else None
        spread = self.reference_noise.sigmas.square().mean(0).sqrt()
        settings = {"hidden": 256, "target_std": spread, "log_sigma_range": log_sigma_range}
        settings |= proposal
        pooled, width = self.trunk[0].in_features, settings["hidden"]
        self.proposal = nn.Sequential(
            FeatureStandardizer(pooled // self.pool_size**2),
            nn.Flatten(),
            Float32Linear(pooled, width),
            nn.ReLU(),
            MixtureDensityHead(width, 4, **settings),
        )

    def propose(
        self, feats: Sequence[Tensor], reference: Tensor, batch_index: Tensor
    ) -> MixtureDensity:
        """The proposal around reference boxes.

        Args:
            feats: what :meth:`prepare` returned.
            reference: (N, 4) boxes in network-input pixels; one that is not finite counts as empty.
            batch_index: (N,) int64.

        Returns:
            N mixtures over R^4, differentiable only with respect to the parameters of ``proposal``.
        """
        with torch.no_grad():
            x = self.pool(feats, reference.nan_to_num(0, 0, 0), batch_index)
        return self.proposal(x.unflatten(1, (-1, self.pool_size, self.pool_size)))

    @property
    def log_density_type(self) -> type[ProposalBoxLogDensity]:
        """A log-density that also has a ``proposal()``."""
        return ResidualBoxLogDensity if self.residual else ProposalBoxLogDensity

    def training_problem(
        self, feats: Sequence[Tensor], gt_boxes: Tensor, batch_index: Tensor, labels: Tensor
    ) -> tuple[ProposalBoxLogDensity, Tensor]:
        """The function f around jittered annotations, and the annotations relative to these.

        Each object is there ``num_references`` times.
        """
        gt_boxes, batch_index, labels = (
            values.repeat_interleave(self.num_references, 0)
            for values in (gt_boxes.float(), batch_index, labels)
        )
        reference = self._jitter(gt_boxes, self.reference_noise)
        target = gt_boxes
        if self.target_noise is not None:
            target = self._jitter(gt_boxes, self.target_noise)
        fn = self.log_density_fn(feats, reference, batch_index, labels)
        return fn, encode_boxes(target, reference)

    @staticmethod
    def _jitter(boxes: Tensor, noise) -> Tensor:
        offsets, _ = noise.sample(len(boxes), 1, device=boxes.device)
        return decode_boxes(offsets.squeeze(1), boxes)
