"""As faster_rcnn_r50_fpn_nceplus.py, trained by score matching (SM), which needs no samples.

    tools/dist_train.sh configs/ebm/faster_rcnn_r50_fpn_sm.py 8        # 8 GPUs x 2 images
    tools/dist_test.sh  configs/ebm/faster_rcnn_r50_fpn_sm.py CKPT 8 --eval bbox

Hardware and data: as for faster_rcnn_r50_fpn_nceplus.py.

Expected: little; not trained on COCO here, docs/results.md has results on small data. The papers do not apply SM to
boxes. The method sees only the annotated box, through second derivatives of the pooling, and learns nothing about boxes
some distance away.
"""

_base_ = './faster_rcnn_r50_fpn_nceplus.py'

model = dict(
    energy_head=dict(
        # With ReLU, f is piecewise linear in the features, and the trace would contain only the curvature of the
        # pooling.
        act_cfg=dict(type='SiLU'),
        objective=dict(_delete_=True, type='ScoreMatchingObjective', trace='exact')),
    refiner=dict(step_size=[4e-4, 4e-4, 1.6e-3, 1.6e-3]))  # those of the other objectives
