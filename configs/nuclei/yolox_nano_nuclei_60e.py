"""The nuclei detector after 60 instead of 25 epochs: how much is left to refine when the base is more precise?

    python tools/train.py configs/nuclei/yolox_nano_nuclei_60e.py

Hardware, data and expected results: as yolox_nano_nuclei.py.
"""

_base_ = ['./yolox_nano_nuclei.py']

max_epochs = 60
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR', eta_min=1e-5, begin=2, end=max_epochs, T_max=max_epochs - 2, by_epoch=True,
        convert_to_iter_based=True),
]
custom_hooks = [
    dict(type='YOLOXModeSwitchHook', num_last_epochs=max_epochs, priority=48),
    dict(type='NormEvalHook'),
]
