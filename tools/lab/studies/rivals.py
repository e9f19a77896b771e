"""Further rivals of energy refinement, for studies; see :mod:`ebm_mmdet.apis.fitting.rivals`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ebm_mmdet.apis.fitting.kl_regressor import KLRegressor
from ebm_mmdet.apis.fitting.rivals import moved_by
from ebm_mmdet.energy import RefinementResult, RegressingLogDensityFn
from ebm_mmdet.models.box_coding import encode_boxes
from ebm_mmdet.models.flip_mean import FlipMean
from ebm_mmdet.models.heads import BoxLogDensity, EBMBBoxHead
from ebm_mmdet.models.side_uncertainty import side_std_to_covariance

__all__ = ["EnergyEnsemble", "FlippedRegressor", "GaussianStep", "RandomNudge", "learned_proposal"]


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


class FlippedRegressor:
    """The mean offsets of a regressor over mirror images; in place of it in a `RegressionStep`."""

    def __init__(self, mean: FlipMean) -> None:
        self.mean = mean

    def offsets(self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor) -> Tensor:
        """Offsets (R, 4) of the object relative to the boxes (R, 4) of the image as it is."""
        views = self.mean.views(feats, boxes)
        found = [self.mean.head.offsets(*view, batch_index) * sign for view, sign in views]
        return torch.stack(found).mean(0)


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
