"""Three stages of Cascade R-CNN (Cai and Vasconcelos, CVPR 2018), to put into a Faster R-CNN of mmdet.

Numbers are those of mmdet's own Cascade R-CNN, whose stages are class-agnostic too. A recipe lists this file among its
bases and takes what it needs from `_base_.cascade`.
"""

cascade = dict(
    bbox_heads=[
        dict(
            type='Shared2FCBBoxHead',
            roi_feat_size=7,
            reg_class_agnostic=True,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=stds),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0))
        for stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
    ],
    stage_loss_weights=[1, 0.5, 0.25],
    # Each stage trains on boxes that overlap more with the objects than the stage before asked for.
    assigners=[
        dict(
            type='MaxIoUAssigner', pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou, match_low_quality=False,
            ignore_iof_thr=-1) for iou in (0.5, 0.6, 0.7)
    ])
