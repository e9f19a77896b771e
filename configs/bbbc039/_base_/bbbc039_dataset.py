"""Nuclei of U2OS cells with mask-exact boxes (BBBC039), up to 230 in an image: 120 training and 40 validation images.

How to get them: README.md of this folder. A recipe lists this file among its bases, and puts what it needs of
`_base_.bbbc039` where the detector that it inherits from wants it. Its last line, `_base_.pop('bbbc039')`, takes the
variable out of the result.
"""

bbbc039 = dict(data_root='data/bbbc039/')

load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
]
pack = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
# A nucleus is 29 px wide (median), images are 696 x 520: they are tested as they are.
augment = [
    dict(
        type='RandomChoice',
        transforms=[[dict(type='Resize', scale_factor=tenths / 10, keep_ratio=True)] for tenths in range(8, 14)]),
    dict(type='RandomCrop', crop_size=(416, 416), allow_negative_crop=True),
    # Nuclei have no up and down.
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    # Slivers that a crop leaves of a nucleus.
    dict(type='FilterAnnotations', min_gt_bbox_wh=(6, 6), keep_empty=False),
    pack,
]
as_is = [*load, dict(type='Resize', scale_factor=1.0, keep_ratio=True), pack]


def _dataset(split, pipeline, **more):
    return dict(
        type='CocoDataset',
        data_root=bbbc039['data_root'],
        metainfo=dict(classes=('nucleus', ), palette=[(220, 20, 60)]),
        data_prefix=dict(img='images/'),
        ann_file=f'annotations/{split}.json',
        pipeline=pipeline,
        **more)


bbbc039.update(
    train_dataset=_dataset('train', load + augment),
    # Training images prepared as in the test: the residual prior is fitted on these.
    fit_dataset=_dataset('train', as_is, test_mode=True),
    val_dataset=_dataset('val', as_is, test_mode=True),
    val_annotations=bbbc039['data_root'] + 'annotations/val.json')
del load, pack, augment, as_is  # names of this file, not of a config
