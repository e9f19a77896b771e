"""As faster_rcnn_r50_fpn_2x_coco_kl.py, tested with variance voting; the training is the same.

    tools/dist_test.sh configs/kl_loss/faster_rcnn_r50_fpn_2x_coco_kl_varvote.py CKPT 8 --eval bbox

Expected: 0.3 AP above plain NMS (published on val2017: 38.8 against 38.5).
"""

_base_ = './faster_rcnn_r50_fpn_2x_coco_kl.py'

model = dict(test_cfg=dict(rcnn=dict(var_vote=_base_.kl_var_vote)))
