"""As faster_rcnn_r50_fpn_nceplus.py, trained by maximum likelihood with Langevin chains (ML-MCMC-8).

    tools/dist_train.sh configs/ebm/faster_rcnn_r50_fpn_mlmcmc.py 8

Costs about 13 times the training of NCE (published), for 8 gradients with respect to every box. The published result
(36.4 AP on test-dev, below the detector's 37.2) is no aim: with the released step of 1e-5 chains do not move, and
nothing is learned. Not trained on COCO here; on small data see docs/results.md.
"""

_base_ = './faster_rcnn_r50_fpn_nceplus.py'

model = dict(
    energy_head=dict(
        objective=dict(
            _delete_=True,
            type='MCMCObjective',
            # 8 steps of 0.02 leave chains 0.057 from the annotation, about the width of the density, and stay below
            # twice its standard deviation, beyond which they diverge. The log shows chain_distance.
            step_size=0.02,
            num_steps=8,
            num_samples=32,  # chains per object; the released code has 128
            grad_clip=100.0,  # a drift of half a step^2 x 100 = 0.02 at most: one chain cannot run away
            # Not in the papers, whose f stays flat: without it f sharpens until chains overshoot, and diverges.
            magnitude_weight=0.1)),
    refiner=dict(step_size=[4e-4, 4e-4, 1.6e-3, 1.6e-3]))  # of the other objectives; the papers' are for f = 0
