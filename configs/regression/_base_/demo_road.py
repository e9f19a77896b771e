"""Generated roads: the angle of the steering wheel, uncertain in fog; 30 % fork, and the mean of two branches is no road."""

_base_ = ['./demo_generated.py']

model = dict(head=dict(codec=dict(ranges=[(-80.0, 80.0)])))

train_dataloader = dict(dataset=dict(task='road', variant='mixed'))
val_dataloader = train_dataloader
test_dataloader = train_dataloader

val_evaluator = [
    dict(type='RegressionMetric', groups=('fork', )),
    dict(type='ProbabilisticRegressionMetric', groups=('fork', )),
]
test_evaluator = val_evaluator
