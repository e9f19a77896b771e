"""FCOS R50-FPN with an energy head trained by NCE+, on COCO: a detector without anchors.

    tools/dist_train.sh configs/ebm/fcos_r50_fpn_nceplus.py 8        # 8 GPUs x 2 images
    tools/dist_test.sh  configs/ebm/fcos_r50_fpn_nceplus.py CKPT 8 --eval bbox

Hardware and data: as faster_rcnn_r50_fpn_nceplus.py, whose head and schedule this has. The feature pyramid of FCOS
starts at stride 8, and it has no box head from which the trunk could start.

Expected: not published anywhere and not trained here.
"""

_base_ = ['mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', '../_base_/ebm_recipe.py']

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/fcos/fcos_r50_caffe_fpn_gn-head_1x_coco/fcos_r50_caffe_fpn_gn-head_1x_coco-821213aa.pth'  # noqa
_base_.model.backbone.init_cfg = None  # load_from holds the backbone too

model = dict(
    _delete_=True,
    type='EBMDetector',
    backbone=dict(),  # not read; mmdet's init_detector looks for it
    detector=_base_.model,
    energy_head=_base_.ebm.one_stage_head,
    refiner=_base_.ebm.refiner)  # candidates: the final detections of FCOS

_base_.merge(_base_.pop('ebm').training)
