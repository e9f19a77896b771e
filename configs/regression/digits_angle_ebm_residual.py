"""Turned digits: a mixture of four Gaussians, and an energy on top that corrects it.

    python tools/train.py configs/regression/digits_angle_ebm_residual.py

Hardware: one CPU core, two to three minutes. Expected: docs/regression.md.
"""

_base_ = ['./_base_/digits_angle.py', './_base_/demo_methods.py']

model = dict(head=_base_.pop('methods').ebm_residual)
