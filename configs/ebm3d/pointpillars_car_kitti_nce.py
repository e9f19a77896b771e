"""PointPillars with an energy head trained by NCE on KITTI's cars; mmdet3d publishes the detector's weights.

    tools/dist_train.sh configs/ebm3d/pointpillars_car_kitti_nce.py 1
    tools/dist_test.sh  configs/ebm3d/pointpillars_car_kitti_nce.py CKPT 1

Hardware: as sassd_car_kitti_nce.py, whose schedule this has. Not in the paper, not trained here. A map without height
in its features says little about z and h: expect more in BEV than in 3D.
"""

_base_ = ['mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-car.py', './_base_/ebm3d_recipe.py']

# The detector as it is trained; it stays byte for byte the same.
load_from = 'https://download.openmmlab.com/mmdetection3d/v1.0.0_models/pointpillars/hv_pointpillars_secfpn_6x8_160e_kitti-3d-car/hv_pointpillars_secfpn_6x8_160e_kitti-3d-car_20220331_134606-d42d15ed.pth'  # noqa
detector = _base_.model

model = dict(
    _delete_=True,
    type='EBM3DDetector',
    detector=detector,
    energy_head=dict(
        _base_.energy_head,
        in_channels=384,
        origin=[0, -39.68],
        cell_size=0.32,  # pillars of 0.16 m, stride 2
        # The first cell is centred half a pillar from the origin, a quarter of its own size.
        pixel_offset=0.25),
    refiner=_base_.refiner)

# mmdet3d puts sampled cars on ground planes, which are files that KITTI itself does not have.
load_points, load_boxes, sample_objects = _base_.train_pipeline[:3]
train_pipeline = [load_points, load_boxes, dict(sample_objects, use_ground_plane=False), *_base_.train_pipeline[3:]]
train_dataloader = dict(batch_size=2, dataset=dict(times=1, dataset=dict(pipeline=train_pipeline)))
train_cfg = _base_.kitti_schedule.train_cfg
optim_wrapper = dict(_delete_=True, **_base_.kitti_schedule.optim_wrapper)
param_scheduler = _base_.kitti_schedule.param_scheduler
default_hooks = _base_.kitti_schedule.default_hooks
auto_scale_lr = dict(base_batch_size=2)
val_evaluator = _base_.kitti_evaluator
test_evaluator = val_evaluator
