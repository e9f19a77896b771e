"""Translucent heads: the mean square error, and no density.

    python tools/train.py configs/regression/demo/head_direct.py

Hardware: one CPU core, about a minute. Expected: docs/regression.md.
"""

_base_ = ['../_base_/demo_head.py', '../_base_/demo_methods.py']

model = dict(head=_base_.pop('methods').direct)
