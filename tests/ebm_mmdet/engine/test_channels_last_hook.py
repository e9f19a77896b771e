"""ChannelsLastHook: another order in memory, the same values and parameters."""

from types import SimpleNamespace

import torch
from mmdet.registry import HOOKS
from torch import nn


def test_only_the_order_in_memory_changes():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    before = [(p, p.detach().clone()) for p in model.parameters()]
    image = torch.randn(2, 3, 12, 12)
    expected = model(image)
    HOOKS.build(dict(type="ChannelsLastHook")).before_run(SimpleNamespace(model=model))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    found = model(image)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected)
    for (old, values), new in zip(before, model.parameters()):
        assert old is new
        assert torch.equal(values, new)
