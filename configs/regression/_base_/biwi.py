"""BIWI Kinect: heads of 64 x 64 pixels; yaw, pitch and roll in degrees; 16 sequences to train and 8 to test on.

The two files are those of FSA-Net, whose division of 24 sequences is the papers'. Four people were recorded twice and
may be on both sides. The data are for non-commercial use.
"""

_base_ = ['./paper.py']

model = dict(head=dict(codec=dict(ranges=[(-80.0, 80.0)] * 3)))

dataset = dict(
    type='RegressionArrayDataset',
    preset='biwi',
    data_root='data/biwi/',
    data_file='BIWI_train.npz',
    only_in_range=True,
    # Flip, scale and crop of the released code; a mirrored head has the other yaw and roll.
    pipeline=[
        dict(type='RandomFlipTarget', prob=0.5),
        dict(type='RandomScaleCrop', size=64),
        dict(type='PackRegressionInputs'),
    ])
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(
    dataset=dict(
        dataset, data_file='BIWI_test.npz', test_mode=True, pipeline=[dict(type='PackRegressionInputs')]))
test_dataloader = val_dataloader
