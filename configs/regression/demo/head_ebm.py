"""Translucent heads: an energy f(x, y), trained with fixed noise around the label.

    python tools/train.py configs/regression/demo/head_ebm.py

Hardware: one CPU core, about a minute. Expected: docs/regression.md.
"""

_base_ = ['../_base_/demo_head.py', '../_base_/demo_methods.py']

model = dict(head=_base_.pop('methods').ebm)
model['head']['objective']['noise']['dim'] = 3  # yaw, pitch, roll
