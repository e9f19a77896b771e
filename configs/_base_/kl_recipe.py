"""KL-Loss and variance voting (He et al., CVPR 2019), to be combined with any detector of mmdet.

Numbers are those of the paper or of its released code unless a comment says otherwise. The released code predicts sides
in the RPN too. Here the RPN stays as mmdet has it, so that the box head is the only difference to the detector that one
compares with.

A recipe lists this file among its bases and takes what it needs from `_base_.kl`. Its line

    _base_.merge(_base_.pop('kl').training)

puts the settings that all of them share over those of the detector's own config, and takes `kl` out of the result.
"""

kl = dict(
    bbox_head=dict(
        type='KLBBoxHead',
        # One shift per side, so that one variance belongs to each.
        bbox_coder=dict(type='DeltaXYXYBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=[0.1, 0.1, 0.1, 0.1]),
        # The paper does not limit alpha. No healthy training comes near these limits, and with them a diverging one
        # does not reach NaN.
        loss_bbox=dict(type='KLLoss', form='smooth', alpha_limits=(-10., 10.), loss_weight=1.0)),
    # Voters: all overlapping boxes of the class whose score is above score_thr. The released code has 0.01 for sigma_t,
    # and lets only those boxes vote that NMS has not removed yet (candidates='remaining').
    var_vote=dict(sigma_t=0.02, iou_thr=0.0, candidates='all', space='delta'),
    soft_nms=dict(type='soft_nms', method='gaussian', sigma=0.5, min_score=1e-3),
    # Maximum a posteriori with the variances as prior: f(x, y) + log N(y; detection, its variances).
    refiner=dict(
        type='GradientAscentRefiner', num_steps=10, decay=0.5, prior=dict(std='per_box', scale=1.0, temperature=1.0)),
    # Draws an error bar across every side.
    visualizer=dict(type='UncertaintyVisualizer'))
kl['training'] = dict(
    # 'atomic': a checkpoint is written in full or not at all, whenever training is interrupted.
    default_hooks=dict(checkpoint=dict(backend_args=dict(backend='atomic'))),
    visualizer=kl['visualizer'])
