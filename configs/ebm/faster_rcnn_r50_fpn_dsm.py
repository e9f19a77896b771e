"""As faster_rcnn_r50_fpn_nceplus.py, trained by denoising score matching (DSM).

    tools/dist_train.sh configs/ebm/faster_rcnn_r50_fpn_dsm.py 8

The released code's DSM gives no gradient to the head (its pooling is not differentiable twice), so the published
36.3 AP on test-dev is that of an untrained head and no aim. Not trained on COCO here; on small data see
docs/results.md.
"""

_base_ = './faster_rcnn_r50_fpn_nceplus.py'

model = dict(
    energy_head=dict(
        objective=dict(
            _delete_=True,
            type='DSMObjective',
            sigma=0.075,
            num_samples=32,  # noisy boxes per object; the papers' 128 at a second derivative each cost 4 times as much
            scale_by_sigma=True)),  # 4 instead of 711 for a constant f: suits the learning rate of the others
    refiner=dict(step_size=[4e-4, 4e-4, 1.6e-3, 1.6e-3]))  # of the other objectives; the papers' are for f = 0
