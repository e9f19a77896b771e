"""ROCK on NYUv2 as the paper describes it: no further layers in the tasks, box weight 3, berHu for depth.

    tools/dist_train.sh configs/rock/rock_ssd_r50_480x640_30k_nyuv2_paper.py 1        # 1 GPU x 8 images
    tools/dist_test.sh  configs/rock/rock_ssd_r50_480x640_30k_nyuv2_paper.py CKPT 1 --eval bbox

Hardware: one GPU with 11 GB. Data: NYUv2 in data/nyuv2 with normals, by tools/dataset_converters/nyuv2.py.

Expected: published: 18.5 AP, 37.6 AP50, of the paper on its 122 validation images (673 training images; _40k_trainval has that
split), as the reference implementation's README quotes it; not yet trained with this code. The reference found that one
pixel could make berHu diverge when its threshold follows the batch; ours keeps the threshold out of the gradient.
"""

_base_ = ['./rock_ssd_r50_480x640_30k_nyuv2.py']

model = dict(
    detector=dict(bbox_head=dict(loc_weight=3.0)),
    block=dict(extra_convs=False, tasks=dict(depth=dict(loss='berhu'))))
