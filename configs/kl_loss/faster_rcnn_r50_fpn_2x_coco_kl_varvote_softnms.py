"""As faster_rcnn_r50_fpn_2x_coco_kl_varvote.py with soft-NMS instead of NMS; the training is the same.

    tools/dist_test.sh configs/kl_loss/faster_rcnn_r50_fpn_2x_coco_kl_varvote_softnms.py CKPT 8 --eval bbox

CKPT is a checkpoint of faster_rcnn_r50_fpn_2x_coco_kl.py. Hardware and data: as there.

Expected: 0.4 AP above NMS with voting (published on val2017 with another code base: 39.2 against 38.8; not trained with
this one).
"""

_base_ = ['./faster_rcnn_r50_fpn_2x_coco_kl_varvote.py', '../_base_/kl_recipe.py']

model = dict(test_cfg=dict(rcnn=dict(nms=dict(_delete_=True, **_base_.pop('kl').soft_nms))))
