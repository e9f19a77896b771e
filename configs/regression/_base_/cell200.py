"""Cell-200: 200,000 generated images of 1 to 200 cells, grey, 64 x 64 pixels, in one HDF5 file.

10,000 images to train and 10,000 to test on, at random, as in the papers.
"""

_base_ = ['./paper.py']

# Whole numbers stand for intervals of length 1: a density at points has no largest likelihood.
model = dict(head=dict(codec=dict(ranges=[(1.0, 200.0)], dequantise=True)))

dataset = dict(
    type='RegressionArrayDataset',
    preset='cell200',
    data_root='data/cell200/',
    data_file='Cell200_64x64.h5',
    split=dict(part='train', kind='random', parts=dict(train=10000, test=10000)),
    pipeline=[dict(type='PackRegressionInputs')])
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(
    dataset=dict(dataset, split=dict(part='test', kind='random', parts=dict(train=10000, test=10000)), test_mode=True))
test_dataloader = val_dataloader
