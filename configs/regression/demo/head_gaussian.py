"""Translucent heads: one Gaussian, a mean and a standard deviation for each image.

    python tools/train.py configs/regression/demo/head_gaussian.py

Hardware: one CPU core, about a minute. Expected: docs/regression.md.
"""

_base_ = ['../_base_/demo_head.py', '../_base_/demo_methods.py']

model = dict(head=_base_.pop('methods').gaussian)
