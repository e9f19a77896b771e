"""As faster_rcnn_r50_fpn_nceplus.py, trained by denoising score matching (DSM).

    tools/dist_train.sh configs/ebm/faster_rcnn_r50_fpn_dsm.py 8        # 8 GPUs x 2 images
    tools/dist_test.sh  configs/ebm/faster_rcnn_r50_fpn_dsm.py CKPT 8 --eval bbox

Hardware and data: as for faster_rcnn_r50_fpn_nceplus.py. Each noisy box needs a second derivative, which costs several
times as much as a box of NCE.

Expected: not trained on COCO here; docs/results.md has results on small data. The published result (36.3 AP on
test-dev) is not what to aim at: the pooling of the released code is not differentiable twice, so its DSM gives no
gradient to the head, and the result is that of an untrained head.
"""

_base_ = './faster_rcnn_r50_fpn_nceplus.py'

model = dict(
    energy_head=dict(
        objective=dict(
            _delete_=True,
            type='DSMObjective',
            sigma=0.075,
            num_samples=32,  # noisy boxes per object; the 128 of the papers would cost 4 times as much
            scale_by_sigma=True)),  # the loss of a constant f is 4 instead of 711, which suits the learning rate
    refiner=dict(step_size=[4e-4, 4e-4, 1.6e-3, 1.6e-3]))  # as the other objectives; the papers' suit f = 0
