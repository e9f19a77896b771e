"""Generated translucent heads: yaw, pitch, roll. In 30 % of the images two poses look the same."""

_base_ = ['./demo_generated.py']

model = dict(head=dict(codec=dict(ranges=[(-87.0, 87.0), (-72.0, 72.0), (-52.0, 52.0)])))

train_dataloader = dict(dataset=dict(task='head', variant='mixed'))
val_dataloader = train_dataloader
test_dataloader = train_dataloader

val_evaluator = [
    dict(type='RegressionMetric', groups=('ambiguous', )),
    dict(type='ProbabilisticRegressionMetric', groups=('ambiguous', )),
]
test_evaluator = val_evaluator
