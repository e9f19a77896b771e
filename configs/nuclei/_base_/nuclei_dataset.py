"""Cell nuclei with mask-exact boxes (Data Science Bowl 2018, stage 1): 100 training and 40 validation images.

How to get them: README.md of this folder. A recipe lists this file among its bases, and puts what it needs of
`_base_.nuclei` where the detector that it inherits from wants it. Its last line, `_base_.pop('nuclei')`, takes the variable
out of the result.
"""

nuclei = dict(data_root='data/nuclei_dsb2018/')

load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    # The brightest pixel of an image lies anywhere between 31 and 255: stretch every image to the full range.
    dict(type='AutoContrast', prob=1.0),
]
# A nucleus is about 12 px wide, so images are enlarged: 2x in the test, 1.5x to 2.6x in training.
nuclei['augment'] = [
    dict(
        type='RandomChoice',
        transforms=[[dict(type='Resize', scale_factor=tenths / 10, keep_ratio=True)] for tenths in range(15, 27)]),
    dict(type='RandomCrop', crop_size=(384, 384), allow_negative_crop=True),
    # Nuclei have no up and down.
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    # Slivers a crop leaves of a nucleus; whole nuclei are at least 6 px x 1.5 = 9 px wide here.
    dict(type='FilterAnnotations', min_gt_bbox_wh=(8, 8), keep_empty=False),
    dict(type='PackDetInputs'),
]
enlarge = [
    dict(type='Resize', scale_factor=2.0, keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]


def _dataset(split, pipeline, **more):
    return dict(
        type='CocoDataset',
        data_root=nuclei['data_root'],
        metainfo=dict(classes=('nucleus', ), palette=[(220, 20, 60)]),
        ann_file=f'annotations/{split}.json',
        data_prefix=dict(img='images/'),
        pipeline=pipeline,
        **more)


nuclei.update(
    train_dataset=_dataset('train', load + nuclei['augment']),
    # For wrappers that apply the augmentation themselves.
    train_images=_dataset('train', load),
    # Training images prepared as in the test: the residual prior is fitted on these.
    fit_dataset=_dataset('train', load + enlarge, test_mode=True),
    val_annotations=nuclei['data_root'] + 'annotations/val.json',
    val_dataloader=dict(
        batch_size=1,  # images differ in size, and none is padded this way
        num_workers=1,
        persistent_workers=True,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=_dataset('val', load + enlarge, test_mode=True)))
del load, enlarge  # names of this file, not of a config
