"""As shapes_faster_rcnn.py with soft-NMS instead of NMS; the training is the same.

python tools/test.py configs/demo/shapes_faster_rcnn_softnms.py work_dirs/shapes_faster_rcnn/iter_500.pth
"""

_base_ = ['./shapes_faster_rcnn.py', '../_base_/kl_recipe.py']

model = dict(test_cfg=dict(rcnn=dict(nms=dict(_delete_=True, **_base_.kl.soft_nms))))
