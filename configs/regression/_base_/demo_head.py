"""Generated translucent heads: yaw, pitch, roll. In 30 % of the images two poses look the same."""

_base_ = ['./demo.py']

model = dict(head=dict(codec=dict(ranges=[(-87.0, 87.0), (-72.0, 72.0), (-52.0, 52.0)])))

dataset = dict(
    type='GeneratedRegressionDataset',
    task='head',
    variant='mixed',
    num_images=10000,  # seen four times; 4,000 images seen ten times are learnt by heart
    seed=0,
    cache=True,  # rendered once, and not in every epoch
    pipeline=[dict(type='PackRegressionInputs')])
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dict(dataset, num_images=1000, seed=1))
test_dataloader = dict(dataset=dict(dataset, num_images=1000, seed=2))
val_evaluator = [
    dict(type='RegressionMetric', groups=('ambiguous', )),
    dict(type='ProbabilisticRegressionMetric', groups=('ambiguous', )),
]
test_evaluator = val_evaluator
