"""Generated tree sections, sawn off at the rim: k rings are seen and y is k + Poisson(6 c) for a cut of depth c."""

_base_ = ['./demo_generated.py']

model = dict(head=dict(codec=dict(ranges=[(3.0, 50.0)], dequantise=True)))

train_dataloader = dict(dataset=dict(task='rings', variant='sawn'))
val_dataloader = train_dataloader
test_dataloader = train_dataloader
