"""ROCK on NYUv2 as in the reference implementation: SSD with a residual block of scene, depth and normals.

    tools/dist_train.sh configs/rock/rock_ssd_r50_480x640_30k_nyuv2.py 1        # 1 GPU x 8 images
    tools/dist_test.sh  configs/rock/rock_ssd_r50_480x640_30k_nyuv2.py CKPT 1 --eval bbox

Hardware: one GPU with 11 GB (the reference: an RTX 2080 Ti, 3.3 hours). Data: NYUv2 in data/nyuv2 with normals, by
tools/dataset_converters/nyuv2.py; with --box-convention ref the APs compare with the published ones.

Expected: published: 20.6 AP, 39.9 AP50 on the 654 test images (README of the reference implementation, one run, no spread), 2.1 AP
and 4.6 AP50 above the plain SSD; not yet trained with this code. Its own weights: docs/rock.md, tools/model_converters.
"""

_base_ = ['./_base_/ssd_r50_nyuv2_model.py', './_base_/nyuv2_dataset.py', './_base_/rock_schedule.py']

custom_imports = dict(imports=['ebm_mmdet'], allow_failed_imports=False)

model = dict(
    _delete_=True,
    type='ROCKDetector',
    detector=_base_.model,
    # Three further layers in each task are the reference's; the paper has none.
    block=dict(
        type='ROCKBlock',
        in_channels=2048,
        mid_channels=512,
        extra_convs=True,
        fusion=True,
        tasks=dict(
            scene=dict(type='SceneTask', num_scenes=27, loss_weight=3.0),
            depth=dict(type='DepthTask', feature_channels=128, loss_weight=3.0),
            normals=dict(type='NormalsTask', feature_channels=384, loss_weight=30.0))))
