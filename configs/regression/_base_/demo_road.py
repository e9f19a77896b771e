"""Generated roads: the angle of the steering wheel, uncertain in fog; 30 % fork, and the mean of two branches is no road."""

_base_ = ['./demo.py']

model = dict(head=dict(codec=dict(ranges=[(-80.0, 80.0)])))

dataset = dict(
    type='GeneratedRegressionDataset',
    task='road',
    variant='mixed',
    num_images=10000,  # seen four times; 4,000 images seen ten times are learnt by heart
    seed=0,
    cache=True,  # rendered once, and not in every epoch
    pipeline=[dict(type='PackRegressionInputs')])
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dict(dataset, num_images=1000, seed=1))
test_dataloader = dict(dataset=dict(dataset, num_images=1000, seed=2))
val_evaluator = [
    dict(type='RegressionMetric', groups=('fork', )),
    dict(type='ProbabilisticRegressionMetric', groups=('fork', )),
]
test_evaluator = val_evaluator
