"""shapes_faster_rcnn.py trained with KL-Loss, everything else equal; plain NMS.

    python tools/train.py configs/demo/shapes_faster_rcnn_kl.py

Hardware: 2 CPU cores. The variants with voting and soft-NMS are tested on the same checkpoint.
"""

_base_ = ['./shapes_faster_rcnn.py', '../_base_/kl_recipe.py']

model = dict(roi_head=dict(bbox_head=_base_.kl.bbox_head))
visualizer = dict(**_base_.kl.visualizer)
val_evaluator = [
    _base_.val_evaluator,
    dict(type='ProbabilisticBoxMetric', ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
