"""SA-SSD for cars as its paper has it, the detector that the energy head of sassd_paper_car_kitti_nce.py refines.

    tools/dist_train.sh configs/ebm3d/sassd_paper_car_kitti.py 1
    tools/dist_test.sh  configs/ebm3d/sassd_paper_car_kitti.py CKPT 1

Instead of training, you can convert the weights that its authors published:

    tools/model_converters/sassd_to_ebm_mmdet3d.py epoch_50.pth work_dirs/sassd_paper_car_kitti/epoch_80.pth

Hardware: one GPU with 11 GB; 1,856 iterations of two frames per epoch. Data: as for sassd_car_kitti.py, cars and vans.

Expected: not trained here. The authors of the energy head have 93.14 / 84.65 / 81.86 AP (easy, moderate, hard; 3D IoU
0.7, validation split, 41 positions) with the published weights.
"""

_base_ = ['./sassd_car_kitti.py', './_base_/sassd_paper.py', './_base_/ebm3d_recipe.py']

model = dict(_delete_=True, **_base_.pop('sassd_paper'))

# Trained as in the last version of the released config: one cycle over 80 epochs, as the energy head has it too. (The
# checkpoint that its authors published is called epoch_50.)
_base_.merge(_base_.pop('ebm3d').training)
