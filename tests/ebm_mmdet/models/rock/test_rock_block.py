"""The block against its equations; only what is used is built."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
import torch
from mmdet.registry import MODELS

from tests.ebm_mmdet.models.rock.rock_toys import TASKS, block_cfg
from tests.tolerances import TOLERANCE

SUBSETS = list(chain.from_iterable(combinations(TASKS, n) for n in range(4)))


def make_block(*args, **kwargs):
    torch.manual_seed(0)
    return MODELS.build(block_cfg(*args, **kwargs))


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
@pytest.mark.parametrize("fusion", [True, False])
def test_every_subset_leaves_no_parameter_without_a_gradient(names, fusion):
    block = make_block(names, fusion=fusion)
    x = torch.randn(2, 32, 4, 6, requires_grad=True)
    out, predictions = block(x)
    assert list(predictions) == list(names)
    (out.square().sum() + sum(each.square().sum() for each in predictions.values())).backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    parts = {name.split(".")[0] for name, _ in block.named_parameters()}
    expected = {"encoder", "tasks"} | ({"decoders", "fusion_norm"} if fusion else set())
    assert parts == (expected if names else set())
    assert (out is x) is (not fusion or not names)


@pytest.mark.parametrize("extra_convs", [True, False])
def test_the_block_equals_its_equations(extra_convs):
    """out = ReLU(norm(x + Σ decoder(f_t))), f_t of the encoding, predictions averages of f_t."""
    block = make_block(extra_convs=extra_convs).eval()
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    x = torch.randn(2, 32, 4, 6)

    def normalise(norm, x):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).relu()

    def layer(module, x):
        conv, norm = module[0], module[1]
        padding = conv.kernel_size[0] // 2
        x = torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=padding)
        return normalise(norm, x)

    encoding = layer(block.encoder[1], layer(block.encoder[0], x))
    total, features = x, {}
    for name, task in block.tasks.items():
        own = encoding
        assert len(task.extra_convs) == (3 if extra_convs else 0)
        for extra in task.extra_convs:
            own = layer(extra, own)
        features[name] = torch.nn.functional.conv2d(own, task.features.weight, task.features.bias)
        total = total + layer(block.decoders[name], features[name])
    out, predictions = block(x)
    expected = normalise(block.fusion_norm, total)
    torch.testing.assert_close(out, expected, **TOLERANCE[torch.float32])
    torch.testing.assert_close(predictions["scene"], features["scene"].mean((2, 3)))
    torch.testing.assert_close(predictions["depth"], features["depth"].mean(1, keepdim=True))
    normals = features["normals"].unflatten(1, (3, 2)).mean(2)
    torch.testing.assert_close(predictions["normals"], normals)


def test_all_convolutions_have_biases_and_all_norms_move_slowly():
    for module in make_block().modules():
        if isinstance(module, torch.nn.Conv2d):
            assert module.bias is not None
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.momentum == 0.01


def test_a_task_that_a_config_sets_to_none_is_left_out():
    cfg = block_cfg()
    cfg["tasks"] = {**cfg["tasks"], "depth": None, "normals": None}
    assert list(MODELS.build(cfg).tasks) == ["scene"]


def test_a_task_may_have_settings_of_its_own():
    cfg = block_cfg(extra_convs=False)
    cfg["tasks"] = {**cfg["tasks"], "depth": dict(TASKS["depth"], extra_convs=True)}
    block = MODELS.build(cfg)
    assert [len(task.extra_convs) for task in block.tasks.values()] == [0, 3, 0]


def test_a_map_of_another_width_is_refused_by_name():
    with pytest.raises(ValueError, match=r"in_channels=32.*16 channels"):
        make_block()(torch.zeros(1, 16, 4, 6))
