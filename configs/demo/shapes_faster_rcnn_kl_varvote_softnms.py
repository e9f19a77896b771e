"""As shapes_faster_rcnn_kl_varvote.py with soft-NMS instead of NMS; the training is the same.

    python tools/test.py configs/demo/shapes_faster_rcnn_kl_varvote_softnms.py CKPT

CKPT is work_dirs/shapes_faster_rcnn_kl/iter_500.pth.
"""

_base_ = './shapes_faster_rcnn_kl_varvote.py'

model = dict(test_cfg=dict(rcnn=dict(nms=dict(_delete_=True, **_base_.kl.soft_nms))))
