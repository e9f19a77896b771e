"""ROCK on NYUv2 with one auxiliary task, surface normals (the reference's --aux_tasks normals).

    tools/dist_train.sh configs/rock/rock_ssd_r50_480x640_30k_nyuv2_normals.py 1        # 1 GPU x 8 images
    tools/dist_test.sh  configs/rock/rock_ssd_r50_480x640_30k_nyuv2_normals.py CKPT 1 --eval bbox

Hardware: one GPU with 11 GB. Data: NYUv2 in data/nyuv2 with normals, by tools/dataset_converters/nyuv2.py.

Expected: not published by the reference implementation; not yet trained with this code.
"""

_base_ = ['./rock_ssd_r50_480x640_30k_nyuv2.py']

model = dict(block=dict(tasks=dict(scene=None, depth=None)))

val_evaluator = [_base_.val_evaluator[0], _base_.val_evaluator[3]]
test_evaluator = val_evaluator
