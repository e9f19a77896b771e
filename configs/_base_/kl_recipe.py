"""KL-Loss and variance voting (He et al., CVPR 2019), to be combined with any detector of mmdet's.

Numbers are the paper's or its code's unless a comment says otherwise. Names here do not clash with mmdet's own base
files. The paper's code moves sides in the RPN too; here the RPN stays mmdet's, so that the box head is the only
difference to the detector one compares with.
"""

kl_bbox_head = dict(
    type='KLBBoxHead',
    # One shift per side, so that one variance belongs to each.
    bbox_coder=dict(type='DeltaXYXYBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=[0.1, 0.1, 0.1, 0.1]),
    # The paper does not limit alpha. No healthy training comes near these limits, and no broken one makes NaN.
    loss_bbox=dict(type='KLLoss', form='smooth', alpha_limits=(-10., 10.), loss_weight=1.0))

# Voters: all boxes of the class above score_thr that overlap; the released code has 0.01 for sigma_t, and lets only
# boxes vote that NMS has not removed yet (candidates='remaining').
kl_var_vote = dict(sigma_t=0.02, iou_thr=0.0, candidates='all', space='delta')
kl_soft_nms = dict(type='soft_nms', method='gaussian', sigma=0.5, min_score=1e-3)

# Draws an error bar across every side.
kl_visualizer = dict(type='ebm_mmdet.visualization.uncertainty.UncertaintyVisualizer')

# Maximum a posteriori with the variances as prior: f(x, y) + log N(y; detection, its variances).
kl_refiner = dict(
    type='GradientAscentRefiner', num_steps=10, decay=0.5, prior=dict(std='per_box', scale=1.0, temperature=1.0))
