"""Steering angles: an energy f(x, y) and its learned proposal, a mixture of four Gaussians.

    python tools/train.py configs/regression/steering_ebm_mdn.py

Hardware: any GPU with 4 GB. Published by Gustafsson et al. (AISTATS 2022): no number that could be read.
Not yet trained with this code.
"""

_base_ = ['./_base_/steering.py', './_base_/paper_methods.py']

model = dict(head=_base_.pop('methods').ebm_mdn)
