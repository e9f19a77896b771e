"""PointPillars with an energy head trained by NCE on the cars of KITTI; mmdet3d publishes the detector's weights.

    tools/dist_train.sh configs/ebm3d/pointpillars_car_kitti_nce.py 1
    tools/dist_test.sh  configs/ebm3d/pointpillars_car_kitti_nce.py CKPT 1

Hardware, data and schedule: as for sassd_car_kitti_nce.py.

Expected: not in the paper and not trained here. The features of this map have no height and say little about z and h:
expect more in BEV than in 3D.
"""

_base_ = ['mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-car.py', './_base_/ebm3d_recipe.py']

custom_imports = dict(imports=['ebm_mmdet', 'ebm_mmdet3d'], allow_failed_imports=False)

# The detector as its authors trained it; it stays byte for byte the same.
load_from = 'https://download.openmmlab.com/mmdetection3d/v1.0.0_models/pointpillars/hv_pointpillars_secfpn_6x8_160e_kitti-3d-car/hv_pointpillars_secfpn_6x8_160e_kitti-3d-car_20220331_134606-d42d15ed.pth'  # noqa

model = dict(
    _delete_=True,
    type='EBM3DDetector',
    detector=_base_.model,
    energy_head=dict(
        _base_.ebm3d.head,
        in_channels=384,
        origin=[0, -39.68],
        cell_size=0.32,  # pillars of 0.16 m, stride 2
        # The centre of the first cell is half a pillar from the origin, which is a quarter of a cell.
        pixel_offset=0.25),
    refiner=_base_.ebm3d.refiner)

# mmdet3d puts sampled cars on ground planes, from files that are not part of KITTI.
train_pipeline = [
    *_base_.train_pipeline[:2],  # load points and boxes
    dict(_base_.train_pipeline[2], use_ground_plane=False),  # sample objects
    *_base_.train_pipeline[3:],
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))

_base_.merge(_base_.pop('ebm3d').training)
