"""Further rivals of energy refinement, for studies; see :mod:`ebm_mmdet.apis.fitting.rivals`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ebm_mmdet.apis.fitting.rivals import BoxRegressor, moved_by
from ebm_mmdet.energy import RefinementResult, RegressingLogDensityFn
from ebm_mmdet.models.box_coding import encode_boxes
from ebm_mmdet.models.heads import BoxLogDensity, EBMBBoxHead
from ebm_mmdet.models.losses import KLLoss
from ebm_mmdet.models.side_uncertainty import side_lengths, side_std_to_covariance
from ebm_mmdet.models.task_modules import DeltaXYXYBBoxCoder

__all__ = ["EnergyEnsemble", "GaussianStep", "KLRegressor", "RandomNudge", "learned_proposal"]


class KLRegressor(BoxRegressor):
    """The regressor of KL-Loss on the features of an energy head: each side has a mean and a σ.

    Boxes and batches are those of :class:`BoxRegressor`; coordinates, loss and limits of the
    variances are those of ``configs/_base_/kl_recipe.py``.

    Args:
        energy_head: config of the energy head with which it is compared.

    Source: He et al., CVPR 2019 (arXiv:1809.08545), eq. 9 and eq. 10.
    """

    num_outputs = 8

    def __init__(self, energy_head: dict) -> None:
        super().__init__(energy_head)
        self.coder = DeltaXYXYBBoxCoder(clip_border=False)
        self.kl_loss = KLLoss(form="smooth", alpha_limits=(-10.0, 10.0))

    def loss(self, feats, gt_boxes, batch_index, labels, avg_factor=None) -> dict[str, Tensor]:
        """Mean loss of the sides; signature of :meth:`EBMBBoxHead.loss`."""
        boxes, truth, images = self.jittered(gt_boxes, batch_index)
        delta, alpha = super().offsets(feats, boxes, images).chunk(2, dim=1)
        return {"loss_kl": self.kl_loss(delta, self.coder.encode(boxes, truth), alpha)}

    def sides(
        self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where the sides of the object are, given boxes around it.

        Args:
            feats: what ``prepare`` returned.
            boxes: (R, 4) in pixels of the network's input.
            batch_index: (R,) int64.

        Returns:
            Means (R, 4), x1, y1, x2, y2, and standard deviations (R, 4) in pixels.
        """
        delta, alpha = super().offsets(feats, boxes, batch_index).chunk(2, dim=1)
        alpha = alpha.float().clamp(*self.kl_loss.alpha_limits)
        std = self.coder.pixels_per_delta(boxes) * (0.5 * alpha).exp()
        return self.coder.decode(boxes, delta.float()), std

    def offsets(self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor) -> Tensor:
        """Offsets (R, 4) of the mean in encoded coordinates."""
        return encode_boxes(self.sides(feats, boxes, batch_index)[0], boxes)

    def evidence(
        self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the Gaussian says against boxes, asked from these boxes; larger is worse.

        Returns:
            (R,) negative log-likelihood of the sides in units of the box's size, and (R,) the
            log-ratio of mean and box, half the squared distance in standard deviations.
        """
        mean, std = self.sides(feats, boxes, batch_index)
        ratio = 0.5 * ((boxes - mean) / std).square().sum(1)
        return ratio + (std / side_lengths(boxes)).log().sum(1), ratio


class GaussianStep:
    """Move a box to the mean of a :class:`KLRegressor`, and state the variances as a covariance."""

    def __init__(self, regressor: KLRegressor) -> None:
        self.regressor = regressor

    @torch.no_grad()
    def __call__(self, fn: BoxLogDensity, y0: Tensor, **_) -> RefinementResult:
        mean, std = self.regressor.sides(fn.feats, fn.reference, fn.batch_index)
        nothing = y0.new_zeros(len(y0))
        return moved_by(encode_boxes(mean, fn.reference))._replace(
            covariance=side_std_to_covariance(fn.reference, std), ess=nothing, log_prob=nothing
        )


def learned_proposal(energy_head: dict, residual_std: Sequence[float]) -> dict:
    """Config of the head with a learned proposal that corresponds to an energy head with noise.

    The numbers are those of ``configs/nuclei/yolox_nano_nuclei_nceplus_mdn.py``, whose comments say
    where they come from.

    Args:
        energy_head: config of an energy head with an NCE objective.
        residual_std: (4,) standard deviations of the detector's residuals on training images.
    """
    objective = energy_head["objective"]
    beta = objective.get("beta", 0.0)
    noise = objective["noise"]
    narrow = (beta * torch.tensor(noise["sigmas"])).tolist()
    return {
        **energy_head,
        "regression": None,
        "type": "ProposalEBMBBoxHead",
        "proposal": dict(num_components=4, hidden=128),
        "reference_noise": dict(type="GaussianMixtureNoise", sigmas=[list(residual_std)]),
        "target_noise": {**noise, "sigmas": narrow} if beta else None,
        "objective": dict(
            type="ProposalObjective",
            form="nce",
            num_noise=objective["num_noise"],
            proposal_weight=0.5,
            nll_weight=0.5,
        ),
    }


class RandomNudge:
    """Move every box by Gaussian noise, to show that mere movement gains nothing."""

    def __init__(self, std: float, seed: int) -> None:
        self.std, self.generator = std, torch.Generator().manual_seed(seed)

    def __call__(self, fn: BoxLogDensity, y0: Tensor, **_) -> RefinementResult:
        return moved_by(self.std * torch.randn(y0.shape, generator=self.generator))


class EnergyEnsemble(nn.Module):
    """The mean log-density of several heads (a product of experts), in place of one head."""

    def __init__(self, heads: Sequence[EBMBBoxHead]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def prepare(self, neck_outputs: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the first head, then of the second; see :meth:`EBMBBoxHead.prepare`."""
        return [feat for head in self.heads for feat in head.prepare(neck_outputs)]

    def log_density_fn(self, feats, reference, batch_index, labels) -> _MeanLogDensity:
        """See :meth:`EBMBBoxHead.log_density_fn`; ``feats`` is what :meth:`prepare` returned."""
        levels = len(feats) // len(self.heads)
        members = [
            head.log_density_fn(feats[i * levels :][:levels], reference, batch_index, labels)
            for i, head in enumerate(self.heads)
        ]
        regress = all(isinstance(member, RegressingLogDensityFn) for member in members)
        return (_MeanRegression if regress else _MeanLogDensity)(members)


class _MeanLogDensity:
    def __init__(self, members: Sequence[BoxLogDensity]) -> None:
        self.members, self.reference = members, members[0].reference

    def __call__(self, y: Tensor) -> Tensor:
        return torch.stack([member(y) for member in self.members]).mean(0)

    def select(self, index: Tensor) -> _MeanLogDensity:
        return type(self)([member.select(index) for member in self.members])


class _MeanRegression(_MeanLogDensity):
    """Of heads with a regression: also the mean of their steps."""

    def regress(self, y: Tensor) -> tuple[Tensor, Tensor]:
        f, step = zip(*(member.regress(y) for member in self.members))
        return torch.stack(f).mean(0), torch.stack(step).mean(0)
