"""RetinaNet R50-FPN with an energy head trained by NCE+, on COCO: a one-stage detector.

    tools/dist_train.sh configs/ebm/retinanet_r50_fpn_nceplus.py 8

Not published anywhere and not yet trained; the recipe is that of Faster R-CNN. Its feature pyramid
starts at stride 8, and there is no box head to start the trunk from.
"""

_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/ebm_recipe.py']

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r50_fpn_1x_coco/retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth'  # noqa
detector = _base_.model
detector.backbone.init_cfg = None  # load_from holds the backbone too

model = dict(
    _delete_=True,
    type='EBMDetector',
    detector=detector,
    energy_head=_base_.one_stage_energy_head,
    refiner=_base_.refiner)  # candidates: RetinaNet's final detections

train_cfg = dict(_delete_=True, **_base_.schedule.train_cfg)
param_scheduler = _base_.schedule.param_scheduler
optim_wrapper = dict(_delete_=True, **_base_.schedule.optim_wrapper)
default_hooks = _base_.schedule.default_hooks
log_processor = _base_.schedule.log_processor
train_dataloader = dict(sampler=_base_.schedule.train_sampler)
val_evaluator = dict(type='HighIoUCocoMetric')
test_evaluator = val_evaluator
