"""KL-Loss proposes boxes and their variances, and an energy head trained by NCE+ refines them, on COCO.

    tools/dist_train.sh configs/kl_loss/faster_rcnn_r50_fpn_2x_coco_kl.py 8      # first, the detector
    tools/dist_train.sh configs/kl_loss/faster_rcnn_r50_fpn_kl_nceplus.py 8      # 8 GPUs x 2 images
    tools/dist_test.sh  configs/kl_loss/faster_rcnn_r50_fpn_kl_nceplus.py CKPT 8 --eval bbox

Each detection after voting climbs f(x, y) + log N(y; detection, its variances): where the detector is sure, the energy
head moves the box little. Hardware and data: as configs/ebm/faster_rcnn_r50_fpn_nceplus.py.

Expected: not published and not trained here.
"""

_base_ = ['../ebm/faster_rcnn_r50_fpn_nceplus.py', '../_base_/kl_recipe.py']

load_from = 'work_dirs/faster_rcnn_r50_fpn_2x_coco_kl/epoch_24.pth'

model = dict(
    detector=dict(
        roi_head=dict(bbox_head=_base_.kl.bbox_head), test_cfg=dict(rcnn=dict(var_vote=_base_.kl.var_vote))),
    refiner=dict(_delete_=True, **_base_.kl.refiner),
    candidates=None)  # the detections after voting

_base_.merge(_base_.pop('kl').training)
