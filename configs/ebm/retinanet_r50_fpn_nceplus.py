"""RetinaNet R50-FPN with an energy head trained by NCE+, on COCO: a one-stage detector.

    tools/dist_train.sh configs/ebm/retinanet_r50_fpn_nceplus.py 8        # 8 GPUs x 2 images
    tools/dist_test.sh  configs/ebm/retinanet_r50_fpn_nceplus.py CKPT 8 --eval bbox

Hardware and data: as faster_rcnn_r50_fpn_nceplus.py, whose head and schedule this has. The feature pyramid of RetinaNet
starts at stride 8, and it has no box head from which the trunk could start.

Expected: not published anywhere and not trained here.
"""

_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/ebm_recipe.py']

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r50_fpn_1x_coco/retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth'  # noqa
_base_.model.backbone.init_cfg = None  # load_from holds the backbone too

model = dict(
    _delete_=True,
    type='EBMDetector',
    backbone=dict(),  # not read; mmdet's init_detector looks for it
    detector=_base_.model,
    energy_head=_base_.ebm.one_stage_head,
    refiner=_base_.ebm.refiner)  # candidates: the final detections of RetinaNet

_base_.merge(_base_.pop('ebm').training)
