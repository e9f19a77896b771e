"""ROCK on NYUv2 with the class loss over all priors (the reference's --use_all_priors_conf_loss).

    tools/dist_train.sh configs/rock/rock_ssd_r50_480x640_30k_nyuv2_allpriors.py 1        # 1 GPU x 8 images
    tools/dist_test.sh  configs/rock/rock_ssd_r50_480x640_30k_nyuv2_allpriors.py CKPT 1 --eval bbox

Hardware: one GPU with 11 GB. Data: NYUv2 in data/nyuv2 with normals, by tools/dataset_converters/nyuv2.py.

Expected: published: 21.9 AP on the 122 validation images (README of the reference implementation, one run; its schedule and split
are those of _40k_trainval), where hard negatives gave 19.9; not yet trained with this code.
"""

_base_ = ['./rock_ssd_r50_480x640_30k_nyuv2.py']

# Every background prior counts, with weight 5 of their mean; no mining.
model = dict(detector=dict(bbox_head=dict(all_priors=True, background_weight=5.0)))
