"""Turned digits: an energy f(x, y) and its learned proposal, a mixture of four Gaussians.

    python tools/train.py configs/regression/digits_angle_ebm_mdn.py

Hardware: one CPU core, two to three minutes. Expected: docs/regression.md.
"""

_base_ = ['./_base_/digits_angle.py', './_base_/demo_methods.py']

model = dict(head=_base_.pop('methods').ebm_mdn)
