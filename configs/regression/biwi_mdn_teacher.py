"""Head poses: a mixture of four Gaussians, taught by an energy f(x, y) and by the labels.

    python tools/train.py configs/regression/biwi_mdn_teacher.py

Hardware: any GPU with 4 GB. Published by Gustafsson et al. (AISTATS 2022): no number that could be read.
Not yet trained with this code.
"""

_base_ = ['./biwi_mdn.py', './_base_/paper_teacher.py']

teacher = _base_.pop('teacher')
model = dict(
    _delete_=True,
    type='TeacherRegressor',
    data_preprocessor=_base_.model.data_preprocessor,
    student=_base_.model,
    teacher=dict(
        _base_.model, head=dict(teacher.head, in_channels=_base_.model.head.in_channels, codec=_base_.model.head.codec)),
    num_noise=teacher.num_noise)
