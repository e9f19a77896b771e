"""As faster_rcnn_r50_fpn_2x_coco_kl.py, trained with the plain Gaussian likelihood: no linear tail, eq. 9 everywhere.

    tools/dist_train.sh configs/kl_loss/faster_rcnn_r50_fpn_2x_coco_gaussian.py 8        # 8 GPUs x 2 images
    tools/dist_test.sh  configs/kl_loss/faster_rcnn_r50_fpn_2x_coco_gaussian.py CKPT 8 --eval bbox

Hardware and data: as there. The difference between the two results is what the linear tail is for.

Expected: not published and not trained here.
"""

_base_ = './faster_rcnn_r50_fpn_2x_coco_kl.py'

model = dict(roi_head=dict(bbox_head=dict(loss_bbox=dict(form='gaussian'))))
