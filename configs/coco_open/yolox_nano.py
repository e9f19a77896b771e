"""mmdet's YOLOX-nano on photographs under open licences: a detector as a user has it, for `python -m ebm_mmdet fit`.

    python -m ebm_mmdet fit configs/coco_open/yolox_nano.py checkpoints/yolox_nano_coco_mmdet.pth

Data and weights: README.md of this folder. The detector is trained already. Expected: fit says that it does not pay,
because 85 photographs are too few (docs/results.md, section Fit).
"""

_base_ = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'

data_root = 'data/coco_open/'
train_dataloader = dict(
    dataset=dict(
        dataset=dict(data_root=data_root, ann_file='annotations/train.json', data_prefix=dict(img='images/'))))
val_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file='annotations/val.json', data_prefix=dict(img='images/')))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
