"""Sawn tree sections: a histogram for each coordinate (softmax).

    python tools/train.py configs/regression/demo/rings_softmax.py

Hardware: one CPU core, about a minute. Expected: docs/regression.md.
"""

_base_ = ['../_base_/demo_rings.py', '../_base_/demo_methods.py']

model = dict(head=dict(_base_.pop('methods').softmax, num_bins=48))  # one for each age
