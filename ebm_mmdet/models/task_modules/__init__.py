"""Parts chosen by config, registered in mmdet's ``TASK_UTILS``.

The mathematics in ``ebm_mmdet.energy`` knows nothing of registries, so it is registered here.
"""

from mmdet.registry import TASK_UTILS

from ...energy import GaussianMixtureNoise, NCEObjective, ProposalObjective
from .energy_guided_nms import EnergyGuidedNMS
from .importance_refiner import ImportanceMeanRefiner
from .proposal_refiner import ProposalRefiner
from .refiners import GradientAscentRefiner

for _part in (GaussianMixtureNoise, NCEObjective, ProposalObjective):
    TASK_UTILS.register_module(module=_part)

__all__ = [
    "EnergyGuidedNMS",
    "GradientAscentRefiner",
    "ImportanceMeanRefiner",
    "ProposalRefiner",
]
