"""Generated tree sections, sawn off at the rim: k rings are seen and y is k + Poisson(6 c) for a cut of depth c."""

_base_ = ['./demo.py']

model = dict(head=dict(codec=dict(ranges=[(3.0, 50.0)], dequantise=True)))

dataset = dict(
    type='GeneratedRegressionDataset',
    task='rings',
    variant='sawn',
    num_images=10000,  # seen four times; 4,000 images seen ten times are learnt by heart
    seed=0,
    cache=True,  # rendered once, and not in every epoch
    pipeline=[dict(type='PackRegressionInputs')])
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dict(dataset, num_images=1000, seed=1))
test_dataloader = dict(dataset=dict(dataset, num_images=1000, seed=2))
val_evaluator = [
    dict(type='RegressionMetric'),
    dict(type='ProbabilisticRegressionMetric'),
]
test_evaluator = val_evaluator
