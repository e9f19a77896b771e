"""Ages of faces: a histogram for each coordinate (softmax).

    python tools/train.py configs/regression/utkface_softmax.py

Hardware: any GPU with 4 GB. Published by Gustafsson et al. (AISTATS 2022): no number that could be read.
Not yet trained with this code.
"""

_base_ = ['./_base_/utkface.py', './_base_/paper_methods.py']

model = dict(head=dict(_base_.pop('methods').softmax, num_bins=60))  # one for each age
