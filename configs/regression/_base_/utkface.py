"""UTKFace as in the papers of CcGAN: faces of 64 x 64 pixels and ages of 1 to 60 years, in one HDF5 file.

The data are for non-commercial use. Other protocols (ages 21 to 60, 200 x 200 pixels) cannot be compared with this one.
"""

_base_ = ['./paper.py']

# Whole years stand for intervals of length 1: a density at points has no largest likelihood.
model = dict(head=dict(codec=dict(ranges=[(1.0, 60.0)], dequantise=True)))

dataset = dict(
    type='RegressionArrayDataset',
    preset='utkface',
    data_root='data/utkface/',
    data_file='UTKFace_64x64.h5',
    split=dict(part='train', kind='random', parts=dict(train=0.8, test=0.2)),
    pipeline=[dict(type='PackRegressionInputs')])
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(
    dataset=dict(dataset, split=dict(part='test', kind='random', parts=dict(train=0.8, test=0.2)), test_mode=True))
test_dataloader = val_dataloader
val_evaluator = [dict(type='RegressionMetric', cs=[5]), dict(type='ProbabilisticRegressionMetric')]
test_evaluator = val_evaluator
