"""As faster_rcnn_mobilenetv2_fpn_nuclei_kl.py, tested with variance voting; the training is the same.

    python tools/test.py configs/nuclei/faster_rcnn_mobilenetv2_fpn_nuclei_kl_varvote.py CKPT

CKPT is work_dirs/faster_rcnn_mobilenetv2_fpn_nuclei_kl/iter_300.pth.
"""

_base_ = './faster_rcnn_mobilenetv2_fpn_nuclei_kl.py'

model = dict(test_cfg=dict(rcnn=dict(var_vote=_base_.kl.var_vote)))
