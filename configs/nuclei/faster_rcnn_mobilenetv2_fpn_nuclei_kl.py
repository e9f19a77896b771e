"""faster_rcnn_mobilenetv2_fpn_nuclei.py trained with KL-Loss, everything else equal; plain NMS.

    export EBM_DATA_ROOT=/path/to/shared
    python tools/train.py configs/nuclei/faster_rcnn_mobilenetv2_fpn_nuclei_kl.py

Hardware: 2 CPU cores. The variants with voting and soft-NMS are tested on the same checkpoint. It differs from its
base in the coordinates of boxes too; how to tell the two apart is in docs/kl_loss.md.
"""

_base_ = ['./faster_rcnn_mobilenetv2_fpn_nuclei.py', '../_base_/kl_recipe.py']

model = dict(roi_head=dict(bbox_head=_base_.kl.bbox_head))
visualizer = dict(**_base_.kl.visualizer)
val_evaluator = [
    _base_.val_evaluator,
    dict(type='ProbabilisticBoxMetric', ann_file=_base_.nuclei_val_annotations)
]
test_evaluator = val_evaluator
