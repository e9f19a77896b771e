"""YOLOX-nano with COCO's weights, to be fine-tuned on one class by AdamW in some hundred iterations.

For the recipes of nuclei, here and in configs/bbbc039: they add data, length and learning rate schedule.
"""

_base_ = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)
# 0.91 M parameters, 25.8 AP on COCO val2017 (README.md of configs/nuclei). Its class layers have 80 outputs,
# which do not fit and start anew: the loading message says so.
load_from = 'checkpoints/yolox_nano_coco_mmdet.pth'

model = dict(
    data_preprocessor=dict(batch_augments=None),  # the base changes the image size every ten iterations
    bbox_head=dict(num_classes=1))

# AdamW instead of the base's SGD: few iterations, and the re-created batch norms (README.md) leave gradients
# of very different size.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=10.0))
custom_hooks = [
    # The weights are the published network only with their running statistics (README.md).
    dict(type='NormEvalHook'),
]
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1, backend_args=dict(backend='atomic')))
randomness = dict(seed=0)
