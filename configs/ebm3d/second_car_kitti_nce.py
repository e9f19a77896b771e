"""SECOND with an energy head trained by NCE on KITTI's cars; mmdet3d publishes the detector's weights.

    tools/dist_train.sh configs/ebm3d/second_car_kitti_nce.py 1
    tools/dist_test.sh  configs/ebm3d/second_car_kitti_nce.py CKPT 1

Hardware: as sassd_car_kitti_nce.py, whose schedule this has. Not in the paper, not trained here.
"""

_base_ = ['mmdet3d::second/second_hv_secfpn_8xb6-80e_kitti-3d-car.py', './_base_/ebm3d_recipe.py']

# The detector as it is trained; it stays byte for byte the same.
load_from = 'https://download.openmmlab.com/mmdetection3d/v1.1.0_models/second/second_hv_secfpn_8xb6-80e_kitti-3d-car/second_hv_secfpn_8xb6-80e_kitti-3d-car-75d9305e.pth'  # noqa
detector = _base_.model

model = dict(
    _delete_=True,
    type='EBM3DDetector',
    detector=detector,
    energy_head=_base_.energy_head,
    refiner=_base_.refiner)

train_dataloader = _base_.kitti_schedule.train_dataloader
train_cfg = _base_.kitti_schedule.train_cfg
optim_wrapper = dict(_delete_=True, **_base_.kitti_schedule.optim_wrapper)
param_scheduler = _base_.kitti_schedule.param_scheduler
default_hooks = _base_.kitti_schedule.default_hooks
auto_scale_lr = dict(base_batch_size=2)
val_evaluator = _base_.kitti_evaluator
test_evaluator = val_evaluator
