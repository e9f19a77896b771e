"""As sassd_car_kitti_nce.py with NCE+: the positive is drawn near the annotation, not on it.

    tools/dist_train.sh configs/ebm3d/sassd_car_kitti_nceplus.py 1
    tools/dist_test.sh  configs/ebm3d/sassd_car_kitti_nceplus.py CKPT 1

Hardware and data: as for sassd_car_kitti_nce.py. beta is that of the same authors' image detectors (BMVC 2020).

Expected: not in the paper and not trained here.
"""

_base_ = './sassd_car_kitti_nce.py'

# A tenth of the noise's sigmas: 0.6 to 2.5 cm, about how well KITTI is annotated at best.
model = dict(energy_head=dict(objective=dict(beta=0.1)))
