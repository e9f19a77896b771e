"""mmdet3d's three-class SA-SSD with a class-specific energy head trained by NCE.

    tools/dist_train.sh configs/ebm3d/sassd_3class_kitti_nce.py 1 --cfg-options load_from=SASSD.pth

mmdet3d publishes its config without weights: train mmdet3d::sassd/sassd_8xb6-80e_kitti-3d-3class.py first.

Hardware: as sassd_car_kitti_nce.py. The paper has cars only. The noise is meant for cars: its widest component (0.25 m)
is half as wide as a pedestrian. Needs KITTI's own data: generated scenes have no pedestrians and cyclists to sample.
Not trained here.
"""

_base_ = ['mmdet3d::sassd/sassd_8xb6-80e_kitti-3d-3class.py', './_base_/ebm3d_recipe.py']

detector = _base_.model

model = dict(
    _delete_=True,
    type='EBM3DDetector',
    detector=detector,
    energy_head=dict(_base_.energy_head, num_classes=3),
    refiner=_base_.refiner)

train_dataloader = _base_.kitti_schedule.train_dataloader
train_cfg = _base_.kitti_schedule.train_cfg
optim_wrapper = dict(_delete_=True, **_base_.kitti_schedule.optim_wrapper)
param_scheduler = _base_.kitti_schedule.param_scheduler
default_hooks = _base_.kitti_schedule.default_hooks
auto_scale_lr = dict(base_batch_size=2)
val_evaluator = _base_.kitti_evaluator
test_evaluator = val_evaluator
