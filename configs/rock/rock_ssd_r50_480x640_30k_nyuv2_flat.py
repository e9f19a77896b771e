"""Flat multi-task learning on NYUv2: the tasks of ROCK beside the detector, without the fusion that is ROCK's idea.

    tools/dist_train.sh configs/rock/rock_ssd_r50_480x640_30k_nyuv2_flat.py 1        # 1 GPU x 8 images
    tools/dist_test.sh  configs/rock/rock_ssd_r50_480x640_30k_nyuv2_flat.py CKPT 1 --eval bbox

Hardware: one GPU with 11 GB. Data: NYUv2 in data/nyuv2 with normals, by tools/dataset_converters/nyuv2.py.

Expected: not published by the reference implementation; not yet trained with this code.
"""

_base_ = ['./rock_ssd_r50_480x640_30k_nyuv2.py']

model = dict(block=dict(fusion=False))
