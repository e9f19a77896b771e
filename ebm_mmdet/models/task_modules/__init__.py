"""Parts that configs choose, registered in mmdet's ``TASK_UTILS``.

The mathematics in ``ebm_mmdet.energy`` does not use registries, so it is registered here.
``TRAINING_AND_REFINEMENT_PARTS`` are the parts that do not depend on the dimension of a box;
``ebm_mmdet3d`` registers the same ones with mmdet3d.
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

_MATHEMATICS = (
    DSMObjective,
    GaussianMixtureNoise,
    KLDISObjective,
    MCMCObjective,
    MLISObjective,
    NCEObjective,
    ProposalObjective,
    ScoreMatchingObjective,
)
for _part in _MATHEMATICS:
    TASK_UTILS.register_module(module=_part)

TRAINING_AND_REFINEMENT_PARTS: tuple[type, ...] = (
    *_MATHEMATICS,
    GradientAscentRefiner,
    ImportanceMeanRefiner,
    ProposalRefiner,
)

__all__ = [
    "TRAINING_AND_REFINEMENT_PARTS",
    "DeltaXYXYBBoxCoder",
    "EnergyGuidedNMS",
    "GradientAscentRefiner",
    "ImportanceMeanRefiner",
    "ProposalRefiner",
    "variance_vote",
]
