"""Noise that is the same for every target and in every process; a config imports this module."""

import torch
from mmdet.registry import TASK_UTILS

from ebm_mmdet.energy import GaussianMixtureNoise


@TASK_UTILS.register_module()
class FixedNoise(GaussianMixtureNoise):
    """The mixture, of which every target gets the first drawn samples."""

    def sample(self, n, num_samples, generator=None, device=None, dtype=torch.float32):
        generator = torch.Generator().manual_seed(1)
        offsets, log_prob = super().sample(1, num_samples, generator, dtype=dtype)
        return offsets.expand(n, -1, -1), log_prob.expand(n, -1)
