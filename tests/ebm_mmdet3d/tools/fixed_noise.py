"""The noise of `tests/tools/fixed_noise.py`, for configs of mmdet3d."""

from mmdet3d.registry import TASK_UTILS

from tests.tools.fixed_noise import FixedNoise

TASK_UTILS.register_module(module=FixedNoise)
