"""ROCK on NYUv2 with one auxiliary task, types of scene (the reference's --aux_tasks scene).

    tools/dist_train.sh configs/rock/rock_ssd_r50_480x640_30k_nyuv2_scene.py 1        # 1 GPU x 8 images
    tools/dist_test.sh  configs/rock/rock_ssd_r50_480x640_30k_nyuv2_scene.py CKPT 1 --eval bbox

Hardware: one GPU with 11 GB. Data: NYUv2 in data/nyuv2, by tools/dataset_converters/nyuv2.py.

Expected: not published by the reference implementation; not yet trained with this code.
"""

_base_ = ['./rock_ssd_r50_480x640_30k_nyuv2.py']

model = dict(block=dict(tasks=dict(depth=None, normals=None)))

val_evaluator = [_base_.val_evaluator[0], _base_.val_evaluator[1]]
test_evaluator = val_evaluator
