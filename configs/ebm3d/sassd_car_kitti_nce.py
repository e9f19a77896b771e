"""SA-SSD with an energy head trained by NCE on the cars of KITTI (CVPR Workshops 2021).

    tools/dist_train.sh configs/ebm3d/sassd_car_kitti.py 1          # first, the detector
    tools/dist_train.sh configs/ebm3d/sassd_car_kitti_nce.py 1
    tools/dist_test.sh  configs/ebm3d/sassd_car_kitti_nce.py CKPT 1

Without refinement, with the same checkpoint: --cfg-options model.refiner.num_steps=0.

Hardware: one GPU with 11 GB; 148,480 iterations of two frames, with some 60 objects of 129 boxes each. Data: as for
sassd_car_kitti.py.

Two habits of the released code are switched off here: it draws noise once for all cars of a frame
(model.energy_head.objective.noise.shared=True), and the batch normalisations of its detector drift while the head is
trained (model.bn_train_mode=True).

Expected: not trained here. The paper has, with its own SA-SSD, at 3D IoU 0.7 / 0.8 / 0.9 (moderate, validation split,
41 positions), 84.65 / 50.08 / 1.58 AP before and 86.83 / 54.32 / 2.74 after refinement.
"""

_base_ = ['./sassd_car_kitti.py', './_base_/ebm3d_recipe.py']

load_from = 'work_dirs/sassd_car_kitti/epoch_40.pth'

model = dict(
    _delete_=True,
    type='EBM3DDetector',
    detector=_base_.model,
    energy_head=_base_.ebm3d.head,
    refiner=_base_.ebm3d.refiner)

_base_.merge(_base_.pop('ebm3d').training)
