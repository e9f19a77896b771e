"""Nuclei in BBBC039: a mixture of four Gaussians, and an energy on top that corrects it.

    python tools/train.py configs/regression/bbbc039_count_ebm_residual.py

Hardware: one CPU core, about a minute. Expected: docs/regression.md.
"""

_base_ = ['./_base_/bbbc039_count.py', './_base_/demo_methods.py']

model = dict(head=_base_.pop('methods').ebm_residual)
