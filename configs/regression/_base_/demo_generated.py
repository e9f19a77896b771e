"""The data of the recipes for generated images; a base that lists this one says task and variant of all three sets."""

_base_ = ['./demo.py']

dataset = dict(
    type='GeneratedRegressionDataset',
    num_images=10000,  # seen four times; 4,000 images seen ten times are learnt by heart
    seed=0,
    cache=True,  # rendered once, and not in every epoch
    pipeline=[dict(type='PackRegressionInputs')])
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dict(dataset, num_images=1000, seed=1))
test_dataloader = dict(dataset=dict(dataset, num_images=1000, seed=2))
del dataset

val_evaluator = [
    dict(type='RegressionMetric'),
    dict(type='ProbabilisticRegressionMetric'),
]
test_evaluator = val_evaluator
