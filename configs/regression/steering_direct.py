"""Steering angles: the mean square error, and no density.

    python tools/train.py configs/regression/steering_direct.py

Hardware: any GPU with 4 GB. Not yet trained with this code, and no number is published for this network.
"""

_base_ = ['./_base_/steering.py', './_base_/paper_methods.py']

model = dict(head=_base_.pop('methods').direct)
