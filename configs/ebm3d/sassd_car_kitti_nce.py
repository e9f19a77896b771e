"""SA-SSD with an energy head trained by NCE on KITTI's cars (CVPR Workshops 2021).

    tools/dist_train.sh configs/ebm3d/sassd_car_kitti.py 1          # first, the detector
    tools/dist_train.sh configs/ebm3d/sassd_car_kitti_nce.py 1
    tools/dist_test.sh  configs/ebm3d/sassd_car_kitti_nce.py CKPT 1

Before refinement, with the same checkpoint: --cfg-options model.refiner.num_steps=0.

Hardware: one GPU with 11 GB; 148,480 iterations of two frames, some 60 objects with 129 boxes each.

Two habits of the released code are switched off: one draw of noise for all cars of a frame
(model.energy_head.objective.noise.shared=True), and a detector whose batch normalisations drift while the head is trained
(model.bn_train_mode=True).

Expected: the paper has, at 3D IoU 0.7 / 0.8 / 0.9 (moderate, validation split, 41 positions), 84.65 / 50.08 / 1.58 AP
before and 86.83 / 54.32 / 2.74 after refinement, with its own SA-SSD. Not trained here.
"""

_base_ = './sassd_car_kitti.py'

load_from = 'work_dirs/sassd_car_kitti/epoch_40.pth'
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
