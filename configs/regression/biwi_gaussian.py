"""Head poses: one Gaussian, a mean and a standard deviation for each image.

    python tools/train.py configs/regression/biwi_gaussian.py

Hardware: any GPU with 4 GB. Published by Gustafsson et al. (AISTATS 2022): no number that could be read.
Not yet trained with this code.
"""

_base_ = ['./_base_/biwi.py', './_base_/paper_methods.py']

model = dict(head=_base_.pop('methods').gaussian)
