"""Turned digits: a mixture of four Gaussians, taught by an energy f(x, y) and by the labels.

    python tools/train.py configs/regression/digits_angle_mdn_teacher.py

Hardware: one CPU core, four to five minutes. Expected: docs/regression.md.
"""

_base_ = ['./digits_angle_mdn.py', './_base_/demo_teacher.py']

teacher = _base_.pop('teacher')
model = dict(
    _delete_=True,
    type='TeacherRegressor',
    data_preprocessor=_base_.model.data_preprocessor,
    student=_base_.model,
    teacher=dict(
        _base_.model, head=dict(teacher.head, in_channels=_base_.model.head.in_channels, codec=_base_.model.head.codec)),
    num_noise=teacher.num_noise)
