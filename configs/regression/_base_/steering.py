"""12,271 dash-cam frames of 64 x 64 pixels and the angle of the steering wheel in degrees, in one HDF5 file.

The papers divide the frames at random, which puts neighbouring ones on both sides. For an honest division set
kind='blocks' in both splits.
"""

_base_ = ['./paper.py']

model = dict(head=dict(codec=dict(ranges=[(-100.0, 100.0)])))

dataset = dict(
    type='RegressionArrayDataset',
    preset='steering',
    data_root='data/steering/',
    data_file='SteeringAngle_64x64.h5',
    split=dict(part='train', kind='random', parts=dict(train=0.8, test=0.2)),
    pipeline=[dict(type='PackRegressionInputs')])
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(
    dataset=dict(dataset, split=dict(part='test', kind='random', parts=dict(train=0.8, test=0.2)), test_mode=True))
test_dataloader = val_dataloader
# Most of a driving log is straight on: the mean error says little about bends.
val_evaluator = [dict(type='RegressionMetric', bins=[0, 1, 5, 20, 50]), dict(type='ProbabilisticRegressionMetric')]
test_evaluator = val_evaluator
