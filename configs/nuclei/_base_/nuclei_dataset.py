"""Cell nuclei with mask-exact boxes (Data Science Bowl 2018, stage 1): 100 training and 40 validation images.

Data: $EBM_DATA_ROOT/data/nuclei_dsb2018/{annotations,images}; weights: $EBM_DATA_ROOT/weights.
Variables with names of their own: a recipe puts them where the detector it inherits from wants them.
"""

nuclei_root = '{{$EBM_DATA_ROOT:../shared}}/data/nuclei_dsb2018/'
nuclei_metainfo = dict(classes=('nucleus', ), palette=[(220, 20, 60)])

nuclei_load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    # The brightest pixel of an image lies anywhere between 31 and 255: stretch every image to the full range.
    dict(type='AutoContrast', prob=1.0),
]
# A nucleus is about 12 px wide, so images are enlarged: 2x in the test, 1.5x to 2.6x in training.
nuclei_augment = [
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
nuclei_enlarge = [
    dict(type='Resize', scale_factor=2.0, keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

def _dataset(split, pipeline, **more):
    return dict(
        type='CocoDataset',
        data_root=nuclei_root,
        metainfo=nuclei_metainfo,
        ann_file=f'annotations/{split}.json',
        data_prefix=dict(img='images/'),
        pipeline=pipeline,
        **more)


nuclei_train_dataset = _dataset('train', nuclei_load + nuclei_augment)
# For wrappers that apply the augmentation themselves.
nuclei_train_images = _dataset('train', nuclei_load)
# Training images prepared as in the test: the residual prior is fitted on these.
nuclei_fit_dataset = _dataset('train', nuclei_load + nuclei_enlarge, test_mode=True)
nuclei_val_dataset = _dataset('val', nuclei_load + nuclei_enlarge, test_mode=True)
nuclei_val_annotations = nuclei_root + 'annotations/val.json'
nuclei_val_dataloader = dict(
    _delete_=True,
    batch_size=1,  # images differ in size, and none is padded this way
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=nuclei_val_dataset)
