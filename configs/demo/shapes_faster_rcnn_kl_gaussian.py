"""As shapes_faster_rcnn_kl.py, trained with the plain Gaussian likelihood: no linear tail.

    python tools/train.py configs/demo/shapes_faster_rcnn_kl_gaussian.py

Hardware: 2 CPU cores.
"""

_base_ = './shapes_faster_rcnn_kl.py'

model = dict(roi_head=dict(bbox_head=dict(loss_bbox=dict(form='gaussian'))))
