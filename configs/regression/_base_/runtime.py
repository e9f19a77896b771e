"""What all recipes of image regression share besides network, data and schedule: hooks, pictures, logs."""

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)
default_scope = 'mmdet'

val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # 'atomic': a checkpoint is written in full or not at all, whenever training is interrupted.
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2, backend_args=dict(backend='atomic')),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='RegressionVisualizationHook'))
# Mean and standard deviation of the labels are those of the training set; the checkpoint keeps them.
custom_hooks = [
    dict(type='FitTargetCodecHook'),
    # A proposal, or a taught mixture, first learns from the labels alone; other heads do not notice.
    dict(type='ProposalWarmUpHook', epochs=1),
]
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='RegressionVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl'))
randomness = dict(seed=0)
load_from = None
resume = False
