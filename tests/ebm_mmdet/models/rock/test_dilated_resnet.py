"""The first block of a dilated stage keeps the dilation of the stage before, as in torchvision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS

import ebm_mmdet  # noqa: F401  registers the model
from tests.tolerances import TOLERANCE


def build(kind: str, **kwargs):
    torch.manual_seed(0)
    cfg = dict(
        type=kind, depth=50, base_channels=2, stem_channels=2, norm_eval=True, out_indices=(3,)
    )
    model = MODELS.build({**cfg, **kwargs})
    model.eval()  # returns nothing
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def bottleneck(block, x, stride, dilation):
    def norm(x, bn):
        return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)

    out = norm(F.conv2d(x, block.conv1.weight), block.bn1).relu()
    out = F.conv2d(out, block.conv2.weight, None, stride, dilation, dilation)
    out = norm(F.conv2d(norm(out, block.bn2).relu(), block.conv3.weight), block.bn3)
    if block.downsample is not None:
        x = norm(F.conv2d(x, block.downsample[0].weight, None, stride), block.downsample[1])
    return (out + x).relu()


def torchvision_forward(model, x, strides, dilations):
    """Each stage's first block has the dilation of the stage before."""
    x = model.maxpool(model.norm1(model.conv1(x)).relu())
    before = 1
    for name, stride, dilation in zip(model.res_layers, strides, dilations):
        for i, block in enumerate(getattr(model, name)):
            x = bottleneck(block, x, stride if i == 0 else 1, before if i == 0 else dilation)
        before = dilation
    return x


@pytest.mark.parametrize(
    ("strides", "dilations"),
    [((1, 2, 2, 1), (1, 1, 1, 2)), ((1, 2, 1, 1), (1, 1, 2, 4)), ((1, 2, 2, 2), (1, 1, 1, 1))],
)
def test_outputs_are_torchvisions(strides, dilations):
    model = build("TorchvisionDilatedResNet", strides=strides, dilations=dilations)
    x = torch.randn(1, 3, 64, 96)
    expected = torchvision_forward(model, x, strides, dilations)
    torch.testing.assert_close(model(x)[0], expected, **TOLERANCE[torch.float32])
    plain = build("ResNet", strides=strides, dilations=dilations)
    plain.load_state_dict(model.state_dict())
    assert plain(x)[0].shape == expected.shape
    same = max(dilations) == 1
    assert torch.allclose(plain(x)[0], expected, atol=1e-4) is same


def test_a_basic_blocks_second_convolution_stays_what_it_is():
    kwargs = dict(depth=18, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
    ours, theirs = (build(kind, **kwargs) for kind in ("TorchvisionDilatedResNet", "ResNet"))
    first, second = ours.layer4[0], ours.layer4[1]
    assert first.conv1.dilation == first.conv1.padding == (1, 1)
    assert second.conv1.dilation == second.conv1.padding == (2, 2)
    assert first.conv2.padding == theirs.layer4[0].conv2.padding == (1, 1)
