"""Flat multi-task learning on generated rooms: the tasks of ROCK beside the SSD, without the fusion.

    python tools/train.py configs/rock/rooms_flat.py
    python tools/test.py  configs/rock/rooms_flat.py work_dirs/rooms_flat/iter_2000.pth --eval bbox

Hardware: one or two CPU cores, some five minutes. Data: generated while it trains, nothing to download.

Expected: docs/results.md, section ROCK.
"""

_base_ = ['./rooms_rock.py']

model = dict(block=dict(fusion=False))
