"""As faster_rcnn_mobilenetv2_fpn_nuclei_kl_varvote.py with soft-NMS instead of NMS; the training is the same.

    python tools/test.py configs/nuclei/faster_rcnn_mobilenetv2_fpn_nuclei_kl_varvote_softnms.py CKPT

CKPT is work_dirs/faster_rcnn_mobilenetv2_fpn_nuclei_kl/iter_300.pth.
"""

_base_ = './faster_rcnn_mobilenetv2_fpn_nuclei_kl_varvote.py'

model = dict(test_cfg=dict(rcnn=dict(nms=dict(_delete_=True, **_base_.kl.soft_nms))))
