"""Roads with fog and forks: an energy f(x, y) and its learned proposal, a mixture of four Gaussians.

    python tools/train.py configs/regression/demo/road_ebm_mdn.py

Hardware: one CPU core, about a minute. Expected: docs/regression.md.
"""

_base_ = ['../_base_/demo_road.py', '../_base_/demo_methods.py']

model = dict(head=_base_.pop('methods').ebm_mdn)
