"""Roads with fog and forks: a histogram for each coordinate (softmax).

    python tools/train.py configs/regression/demo/road_softmax.py

Hardware: one CPU core, about a minute. Expected: docs/regression.md.
"""

_base_ = ['../_base_/demo_road.py', '../_base_/demo_methods.py']

model = dict(head=_base_.pop('methods').softmax)
