"""The energy head with a learned proposal distribution of boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS, TASK_UTILS
from torch import Tensor, nn

from ...energy import MixtureDensity, MixtureDensityHead
from ...energy.float32_linear import Float32Linear
from ..box_coding import decode_boxes, encode_boxes
from .ebm_bbox_head import EBMBBoxHead
from .energy_head import BoxLogDensity
from .feature_standardizer import FeatureStandardizer

__all__ = ["ProposalBoxLogDensity", "ProposalEBMBBoxHead"]


class ProposalBoxLogDensity(BoxLogDensity):
    """A log-density of boxes that comes with a proposal in the same coordinates."""

    def proposal(self) -> MixtureDensity:
        """The N densities q(u | x, reference) of offsets u from ``reference``."""
        return self.head.propose(self.feats, self.reference, self.batch_index)


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
    lies **given** such a detection. Each object gets one reference per iteration.

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
        objective: ``ProposalObjective``.
        **kwargs: those of ``EBMBBoxHead``.

    Source: Gustafsson et al., "Learning Proposals for Practical Energy-Based Regression", AISTATS
    2022 (arXiv:2110.11948), for boxes (which the paper does not do).
    """

    def __init__(
        self,
        *,
        proposal: dict,
        reference_noise: dict,
        objective: dict,
        log_sigma_range: tuple[float, float] = (-3.0, 1.0),
        target_noise: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(objective=objective, **kwargs)
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
            x, restore = self.pool(feats, reference.nan_to_num(0, 0, 0), batch_index)
        return self.proposal(x[restore].unflatten(1, (-1, self.pool_size, self.pool_size)))

    def log_density_fn(
        self, feats: Sequence[Tensor], reference: Tensor, batch_index: Tensor, labels: Tensor
    ) -> ProposalBoxLogDensity:
        """As in ``EBMBBoxHead``; the function also has a ``proposal()``."""
        self.check_targets(feats, batch_index, labels)
        return ProposalBoxLogDensity.recordable(self, feats, reference, batch_index, labels)

    def training_problem(
        self, feats: Sequence[Tensor], gt_boxes: Tensor, batch_index: Tensor, labels: Tensor
    ) -> tuple[ProposalBoxLogDensity, Tensor]:
        """The function f around jittered annotations, and the annotations relative to these."""
        gt_boxes = gt_boxes.float()
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
