"""A small SSD on generated rooms: the detector that ROCK is compared with there.

    python tools/train.py configs/rock/rooms_ssd.py
    python tools/test.py  configs/rock/rooms_ssd.py work_dirs/rooms_ssd/iter_2000.pth --eval bbox

Hardware: one or two CPU cores, some five minutes. Data: generated while it trains, nothing to download.

Expected: docs/results.md, section ROCK.
"""

_base_ = ['./_base_/ssd_rooms_model.py', './_base_/rooms_dataset.py', './_base_/rooms_schedule.py']

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)

val_evaluator = _base_.val_evaluator[:1]  # it has no auxiliary task
test_evaluator = val_evaluator
