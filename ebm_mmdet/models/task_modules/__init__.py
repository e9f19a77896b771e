"""Parts chosen by config, registered in mmdet's ``TASK_UTILS``.

The mathematics in ``ebm_mmdet.energy`` knows nothing of registries, so it is registered here.
"""

from mmdet.registry import TASK_UTILS

from ...energy import (
    DSMObjective,
    GaussianMixtureNoise,
    KLDISObjective,
    MCMCObjective,
    MLISObjective,
    NCEObjective,
    ProposalObjective,
    ScoreMatchingObjective,
)
from .delta_xyxy_coder import DeltaXYXYBBoxCoder
from .energy_guided_nms import EnergyGuidedNMS
from .gradient_ascent_refiner import GradientAscentRefiner
from .importance_refiner import ImportanceMeanRefiner
from .proposal_refiner import ProposalRefiner
from .variance_voting import variance_vote

for _part in (
    DSMObjective,
    GaussianMixtureNoise,
    KLDISObjective,
    MCMCObjective,
    MLISObjective,
    NCEObjective,
    ProposalObjective,
    ScoreMatchingObjective,
):
    TASK_UTILS.register_module(module=_part)

__all__ = [
    "DeltaXYXYBBoxCoder",
    "EnergyGuidedNMS",
    "GradientAscentRefiner",
    "ImportanceMeanRefiner",
    "ProposalRefiner",
    "variance_vote",
]
