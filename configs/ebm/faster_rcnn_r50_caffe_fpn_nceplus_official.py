"""The authors' Faster R-CNN with its energy head (BMVC 2020, NCE+), for their checkpoint.

    tools/model_converters/ebm2d_to_ebm_mmdet.py nce+_model_0060000.pth work_dirs/official_nceplus.pth
    tools/dist_test.sh configs/ebm/faster_rcnn_r50_caffe_fpn_nceplus_official.py work_dirs/official_nceplus.pth 8 --eval bbox

Hardware: one GPU with 4 GB, or a CPU. Data: COCO in data/coco, as mmdet lays it out. The file is linked in the README of
github.com/fregu856/ebms_regression; the training is the same as in faster_rcnn_r50_fpn_nceplus.py.

Expected: on val2017 39.36 AP, 57.99 AP50, 42.63 AP75, 22.20 small, 42.57 medium, 51.88 large (published; not seen here, because
the file was not at hand). The detector alone, with `--cfg-options model.refiner=None model.candidates=None`: about 36.8.

Everything that differs from that recipe is what maskrcnn-benchmark, in which the model was trained, does otherwise.
"""

_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50-caffe_fpn_1x_coco.py', '../_base_/ebm_recipe.py']

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)

_base_.model.backbone.init_cfg = None  # the converted checkpoint holds it
_base_.model.data_preprocessor.mean = [102.9801, 115.9465, 122.7717]  # of Caffe2; mmdet's caffe models have others
# Widths and heights rounded to cells, then times 8; centred in the first cell, and not at its corner.
_base_.model.rpn_head.anchor_generator = dict(
    type='YOLOAnchorGenerator',
    strides=[4, 8, 16, 32, 64],
    base_sizes=[
        [(48, 24), (32, 32), (24, 48)],
        [(88, 48), (64, 64), (48, 96)],
        [(184, 96), (128, 128), (88, 176)],
        [(360, 176), (256, 256), (184, 368)],
        [(728, 368), (512, 512), (360, 720)],
    ])
_base_.model.test_cfg.rpn.min_bbox_size = -1  # a box of one pixel is kept
_base_.model.roi_head.bbox_roi_extractor.type = 'InclusiveRoIExtractor'
_base_.model.roi_head.bbox_roi_extractor.roi_layer = dict(
    type='RoIAlign', output_size=7, sampling_ratio=2, aligned=False)

model = dict(
    _delete_=True,
    type='EBMDetector',
    backbone=dict(),  # not read; mmdet's init_detector looks for it
    detector=_base_.model,
    energy_head=dict(
        _base_.ebm.head,
        roi_shift=0.0,  # both heads read without the half pixel
        legacy_plus_one=True),
    refiner=_base_.ebm.refiner,
    candidates=dict(type='EnergyGuidedNMS', score_thr=0.05, iou_threshold=0.5, max_per_img=100),
    init_trunk_from=None,  # the checkpoint has the trunk
    clip_boxes=False,
    legacy_plus_one=True)

# Pillow decodes and resizes, to sizes that are truncated and not rounded.
test_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='FixScaleResize', scale=(800, 1333), keep_ratio=True, backend='pillow'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

_base_.merge(_base_.pop('ebm').training)
