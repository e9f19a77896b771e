"""As faster_rcnn_mobilenetv2_fpn_nuclei_kl.py, trained with the plain Gaussian likelihood: no linear tail.

    export EBM_DATA_ROOT=/path/to/shared
    python tools/train.py configs/nuclei/faster_rcnn_mobilenetv2_fpn_nuclei_kl_gaussian.py

Hardware: 2 CPU cores. The difference between the two is what the tail is for.
"""

_base_ = './faster_rcnn_mobilenetv2_fpn_nuclei_kl.py'

model = dict(roi_head=dict(bbox_head=dict(loss_bbox=dict(form='gaussian'))))
