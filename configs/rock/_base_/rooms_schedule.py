"""Schedule and runtime of the recipes for generated rooms: minutes on one CPU core, from scratch."""

_base_ = ['mmdet::_base_/default_runtime.py']

max_iters = 2000  # of 8 images: eight times through 2,000 rooms

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    # The weight of the normals' loss, 30, comes from long training; at the start its gradients are large.
    clip_grad=dict(max_norm=10.0),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=max_iters, T_max=max_iters - 100, eta_min=2e-5),
]

custom_hooks = [dict(type='ChannelsLastHook')]  # a seventh of the time of a step on a processor
default_hooks = dict(
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=500, max_keep_ckpts=1, backend_args=dict(backend='atomic')))
log_processor = dict(by_epoch=False)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='MultiTaskVisualizer', vis_backends=vis_backends)
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='gloo'))
