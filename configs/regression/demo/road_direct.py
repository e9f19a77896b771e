"""Roads with fog and forks: the mean square error, and no density.

    python tools/train.py configs/regression/demo/road_direct.py

Hardware: one CPU core, about a minute. Expected: docs/regression.md.
"""

_base_ = ['../_base_/demo_road.py', '../_base_/demo_methods.py']

model = dict(head=_base_.pop('methods').direct)
