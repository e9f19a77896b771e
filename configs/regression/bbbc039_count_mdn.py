"""Nuclei in BBBC039: a mixture of four Gaussians (mixture density network).

    python tools/train.py configs/regression/bbbc039_count_mdn.py

Hardware: one CPU core, about a minute. Expected: docs/regression.md.
"""

_base_ = ['./_base_/bbbc039_count.py', './_base_/demo_methods.py']

model = dict(head=_base_.pop('methods').mdn)
