"""KL-Loss proposes boxes and their variances, an energy head trained by NCE+ refines them, on COCO.

    tools/dist_train.sh configs/kl_loss/faster_rcnn_r50_fpn_2x_coco_kl.py 8      # first, the detector
    tools/dist_train.sh configs/kl_loss/faster_rcnn_r50_fpn_kl_nceplus.py 8      # 8 GPUs x 2 images

Each voted detection climbs f(x, y) + log N(y; detection, its variances): where the detector is sure, the energy head
moves little. Hardware: as configs/ebm/faster_rcnn_r50_fpn_nceplus.py. Not published and not trained here.
"""

_base_ = ['../ebm/faster_rcnn_r50_fpn_nceplus.py', '../_base_/kl_recipe.py']

load_from = 'work_dirs/faster_rcnn_r50_fpn_2x_coco_kl/epoch_24.pth'

model = dict(
    detector=dict(
        roi_head=dict(bbox_head=_base_.kl_bbox_head), test_cfg=dict(rcnn=dict(var_vote=_base_.kl_var_vote))),
    refiner=dict(_delete_=True, **_base_.kl_refiner),
    candidates=None)  # the detections after voting
visualizer = dict(**_base_.kl_visualizer)
