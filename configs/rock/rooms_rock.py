"""ROCK on generated rooms: the small SSD with a residual block of scene, depth and normals.

    python tools/train.py configs/rock/rooms_rock.py
    python tools/test.py  configs/rock/rooms_rock.py work_dirs/rooms_rock/iter_2000.pth --eval bbox
    make demo-rooms            # this one, rooms_ssd.py and rooms_flat.py, with a table and pictures

Hardware: one or two CPU cores, some five minutes. Data: generated while it trains, nothing to download.

Expected: docs/results.md, section ROCK.
"""

_base_ = [
    './_base_/ssd_rooms_model.py', './_base_/rock_rooms_block.py', './_base_/rooms_dataset.py', './_base_/rooms_schedule.py']

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)

model = dict(_delete_=True, type='ROCKDetector', detector=_base_.model, block=_base_.pop('block'))
