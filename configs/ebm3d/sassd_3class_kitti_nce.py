"""mmdet3d's three-class SA-SSD with a class-specific energy head trained by NCE on KITTI.

    tools/dist_train.sh configs/ebm3d/sassd_3class_kitti_nce.py 1 --cfg-options load_from=SASSD.pth
    tools/dist_test.sh  configs/ebm3d/sassd_3class_kitti_nce.py CKPT 1

mmdet3d publishes the config of this detector without weights: train mmdet3d::sassd/sassd_8xb6-80e_kitti-3d-3class.py
first, and give its checkpoint as load_from.

Hardware and data: as sassd_car_kitti_nce.py. The noise is that for cars: its widest component (0.25 m) is half as wide
as a pedestrian.

Expected: the paper has cars only; not trained here.
"""

_base_ = ['mmdet3d::sassd/sassd_8xb6-80e_kitti-3d-3class.py', './_base_/ebm3d_recipe.py']

custom_imports = dict(imports=['ebm_mmdet', 'ebm_mmdet3d'], allow_failed_imports=False)

model = dict(
    _delete_=True,
    type='EBM3DDetector',
    detector=_base_.model,
    energy_head=dict(_base_.ebm3d.head, num_classes=3),
    refiner=_base_.ebm3d.refiner)

_base_.merge(_base_.pop('ebm3d').training)
