"""The paper's SA-SSD with an energy head on its conv6, trained by NCE on the cars of KITTI (CVPR Workshops 2021).

    tools/dist_train.sh configs/ebm3d/sassd_paper_car_kitti.py 1          # first, the detector, or convert its weights
    tools/dist_train.sh configs/ebm3d/sassd_paper_car_kitti_nce.py 1
    tools/dist_test.sh  configs/ebm3d/sassd_paper_car_kitti_nce.py CKPT 1

Without refinement, with the same checkpoint: --cfg-options model.refiner.num_steps=0. The published energy head can be
converted to CKPT too, with tools/model_converters/sassd_to_ebm_mmdet3d.py.

Hardware: one GPU with 11 GB; 148,480 iterations of two frames, with some 60 objects of 129 boxes each. The head has
8,425,057 parameters. Data: as for sassd_car_kitti.py.

Two habits of the released code are switched off here: it draws noise once for all cars of a frame
(model.energy_head.objective.noise.shared=True), and the batch normalisations of its detector drift while the head is
trained (model.bn_train_mode=True).

Expected: not trained here. The paper has, at 3D IoU 0.7 / 0.8 / 0.9 (moderate, validation split, 41 positions),
84.65 / 50.08 / 1.58 AP before and 86.83 / 54.32 / 2.74 after refinement.
"""

_base_ = ['./sassd_paper_car_kitti.py', './_base_/ebm3d_recipe.py']

load_from = 'work_dirs/sassd_paper_car_kitti/epoch_80.pth'

model = dict(
    _delete_=True,
    type='EBM3DDetector',
    detector=_base_.model,
    # The output of the last 3 x 3 convolution, which part-sensitive warping reads too.
    feature_source='backbone.conv6',
    energy_head=dict(_base_.ebm3d.head, in_channels=256),
    refiner=_base_.ebm3d.refiner)

_base_.merge(_base_.pop('ebm3d').training)
