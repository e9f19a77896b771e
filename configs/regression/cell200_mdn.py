"""Cell-200: a mixture of four Gaussians (mixture density network).

    python tools/train.py configs/regression/cell200_mdn.py

Hardware: any GPU with 4 GB. Published by Gustafsson et al. (AISTATS 2022): no number that could be read.
Not yet trained with this code.
"""

_base_ = ['./_base_/cell200.py', './_base_/paper_methods.py']

model = dict(head=_base_.pop('methods').mdn)
