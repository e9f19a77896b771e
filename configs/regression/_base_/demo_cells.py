"""Generated cells: k are seen, and with probability 0.3 each of them hides a twin, so y is k or 2 k: two peaks."""

_base_ = ['./demo_generated.py']

model = dict(head=dict(codec=dict(ranges=[(-3.0, 84.0)])))

train_dataloader = dict(dataset=dict(task='cells', variant='c'))
val_dataloader = train_dataloader
test_dataloader = train_dataloader
