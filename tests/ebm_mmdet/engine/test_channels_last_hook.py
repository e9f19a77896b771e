"""ChannelsLastHook: another order in memory, the same values and parameters."""

from types import SimpleNamespace

import pytest
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


@pytest.mark.parametrize(("channels", "changes"), [(4, False), (7, False), (8, True)])
def test_narrow_strided_convolutions_keep_their_format(channels, changes):
    """Their gradient corrupts memory in the other format, on processors with AVX2 alone."""
    model = nn.Sequential(nn.Conv2d(3, channels, 3), nn.Conv2d(channels, 16, 1, stride=2))
    lines: list[str] = []
    runner = SimpleNamespace(model=model, logger=SimpleNamespace(warning=lines.append))
    HOOKS.build(dict(type="ChannelsLastHook")).before_run(runner)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last) == changes
    assert [
        f"1 is a strided 1 x 1 convolution of {channels} channels" in line for line in lines
    ] == ([] if changes else [True])
    model(torch.randn(2, 3, 12, 12)).sum().backward()
