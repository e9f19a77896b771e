"""As shapes_faster_rcnn_kl.py, tested with variance voting; the training is the same.

python tools/test.py configs/demo/shapes_faster_rcnn_kl_varvote.py work_dirs/shapes_faster_rcnn_kl/iter_500.pth
"""

_base_ = './shapes_faster_rcnn_kl.py'

model = dict(test_cfg=dict(rcnn=dict(var_vote=_base_.kl.var_vote)))
