"""SECOND with an energy head trained by NCE on the cars of KITTI; mmdet3d publishes the detector's weights.

    tools/dist_train.sh configs/ebm3d/second_car_kitti_nce.py 1
    tools/dist_test.sh  configs/ebm3d/second_car_kitti_nce.py CKPT 1

Hardware, data and schedule: as for sassd_car_kitti_nce.py.

Expected: not in the paper and not trained here.
"""

_base_ = ['mmdet3d::second/second_hv_secfpn_8xb6-80e_kitti-3d-car.py', './_base_/ebm3d_recipe.py']

custom_imports = dict(imports=['ebm_mmdet', 'ebm_mmdet3d'], allow_failed_imports=False)

# The detector as its authors trained it; it stays byte for byte the same.
load_from = 'https://download.openmmlab.com/mmdetection3d/v1.1.0_models/second/second_hv_secfpn_8xb6-80e_kitti-3d-car/second_hv_secfpn_8xb6-80e_kitti-3d-car-75d9305e.pth'  # noqa

model = dict(
    _delete_=True,
    type='EBM3DDetector',
    detector=_base_.model,
    energy_head=_base_.ebm3d.head,
    refiner=_base_.ebm3d.refiner)

_base_.merge(_base_.pop('ebm3d').training)
