"""The reference's schedule for 795 training images, and mmdet's runtime by iterations.

Numbers are the reference implementation's unless a comment says otherwise: it counts in epochs and rounds 30,000
iterations up to 304 of them.
"""

_base_ = ['mmdet::_base_/default_runtime.py']

train_cfg = dict(type='IterBasedTrainLoop', max_iters=30000, val_interval=3000)  # val_interval: ours
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=5e-5, weight_decay=2e-3))
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[25000], gamma=0.1)]
auto_scale_lr = dict(base_batch_size=8)

default_hooks = dict(
    # 'atomic': a checkpoint is written in full or not at all, whenever training is interrupted.
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=3000, max_keep_ckpts=2, backend_args=dict(backend='atomic')))
log_processor = dict(by_epoch=False)
visualizer = dict(type='MultiTaskVisualizer')  # with its two backends in mmdet's runtime
