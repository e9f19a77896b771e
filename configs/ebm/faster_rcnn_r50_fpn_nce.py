"""As faster_rcnn_r50_fpn_nceplus.py with plain NCE: the positive is the annotation itself.

    tools/dist_train.sh configs/ebm/faster_rcnn_r50_fpn_nce.py 8        # 8 GPUs x 2 images
    tools/dist_test.sh  configs/ebm/faster_rcnn_r50_fpn_nce.py CKPT 8 --eval bbox

Hardware and data: as for faster_rcnn_r50_fpn_nceplus.py.

Expected: 0.2 AP below NCE+ (published on test-dev: 39.5 against 39.7; not trained here).
"""

_base_ = './faster_rcnn_r50_fpn_nceplus.py'

model = dict(
    energy_head=dict(objective=dict(beta=0.0)),
    refiner=dict(step_size=[4e-4, 4e-4, 1.6e-3, 1.6e-3]))  # the papers' steps for NCE
