"""As faster_rcnn_r50_fpn_nceplus.py, trained by score matching (SM), which needs no samples.

    tools/dist_train.sh configs/ebm/faster_rcnn_r50_fpn_sm.py 8

The papers have no SM for boxes. It sees the annotated box alone, through second derivatives of the pooling, and
learns nothing of boxes some way off: expect little, and see docs/results.md for small data. Not trained on COCO here.
"""

_base_ = './faster_rcnn_r50_fpn_nceplus.py'

model = dict(
    energy_head=dict(
        # With ReLU f is piecewise linear in the features, and the trace knows the curvature of the pooling only.
        act_cfg=dict(type='SiLU'),
        objective=dict(_delete_=True, type='ScoreMatchingObjective', trace='exact')),
    refiner=dict(step_size=[4e-4, 4e-4, 1.6e-3, 1.6e-3]))  # of the other objectives
