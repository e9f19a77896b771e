"""Nuclei in BBBC039: a histogram for each coordinate (softmax).

    python tools/train.py configs/regression/bbbc039_count_softmax.py

Hardware: one CPU core, about a minute. Expected: docs/regression.md.
"""

_base_ = ['./_base_/bbbc039_count.py', './_base_/demo_methods.py']

model = dict(head=dict(_base_.pop('methods').softmax, num_bins=21))  # one for each count
