"""`projection_convolutions`: what is added to the projection of a map before pooling."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import conv2d, silu

from ebm_mmdet.models.heads import MapConvolutions
from tests.ebm_mmdet.models.test_projection import (
    CHANNELS,
    PROJECTED,
    f_and_gradient,
    make_head,
    problem,
)
from tests.tolerances import TOLERANCE

OPTIONS = dict(projection_channels=PROJECTED, projection_convolutions=2)


def dense(depthwise: torch.nn.Conv2d, pointwise: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A separable convolution as a full one, and the bias of its first part as a convolution."""
    weight = torch.einsum("kc,cij->kcij", pointwise.weight[:, :, 0, 0], depthwise.weight[:, 0])
    bias = pointwise.bias + pointwise.weight[:, :, 0, 0] @ depthwise.bias
    return conv2d(x, weight, bias, padding=1)


def test_two_separable_convolutions_with_silu_between():
    torch.manual_seed(0)
    module, x = MapConvolutions(5, 3, 2), torch.randn(2, 5, 7, 9)
    first, second = (module[0], module[1]), (module[3], module[4])
    expected = dense(*second, silu(dense(*first, x)))
    torch.testing.assert_close(module(x), expected, **TOLERANCE[torch.float32])
    # Cells further away than the receptive field of 5 cells do not matter.
    other = x.clone()
    other[..., 6:] += 1
    assert torch.equal(module(other)[..., :4], module(x)[..., :4])
    assert not torch.equal(module(other)[..., 4], module(x)[..., 4])


@pytest.mark.parametrize("rule", ["assign", "concat"])
@pytest.mark.parametrize("standardize", [False, True])
def test_maps_are_the_projection_and_the_convolutions(rule, standardize):
    """prepare(x) = P x + C(x) for each level, with one P and C for all levels under 'assign'."""
    head = make_head(**OPTIONS, level_rule=rule, standardize=standardize)
    maps, *targets = problem()
    plain = make_head(projection_channels=PROJECTED, level_rule=rule, standardize=standardize)
    plain.load_state_dict(head.state_dict(), strict=False)
    assert len(head.convolutions) == (1 if rule == "assign" else 2)
    read = [norm(x) for norm, x in zip(head.standardizers, maps)] if standardize else maps
    for level, (found, linear) in enumerate(zip(head.prepare(maps), plain.prepare(maps))):
        convolved = head.convolutions[level % len(head.convolutions)](read[level])
        torch.testing.assert_close(found, linear + convolved, **TOLERANCE[torch.float32])
        assert found.is_contiguous(memory_format=torch.channels_last)
    for convolutions in head.convolutions:
        torch.nn.init.zeros_(convolutions[-1].weight)
        torch.nn.init.zeros_(convolutions[-1].bias)
    for a, b in zip(*(f_and_gradient(each, maps, *targets) for each in (head, plain))):
        torch.testing.assert_close(a, b, **TOLERANCE[torch.float32])


def test_nothing_is_stored_without_them():
    assert not [n for n in make_head(projection_channels=4).state_dict() if "convolution" in n]


@pytest.mark.parametrize("rule", ["assign", "concat"])
@pytest.mark.parametrize("count", [6, 1, 0])
def test_the_objective_trains_them_and_not_the_maps(rule, count):
    """Also by boxes of one level alone, and with zeros by none: no parameter is left out."""
    head = make_head(**OPTIONS, level_rule=rule).train()
    maps, *targets = problem()
    maps = [each.requires_grad_() for each in maps]
    head.loss(head.prepare(maps), *(each[:count] for each in targets))["loss_energy"].backward()
    for name, parameter in head.convolutions.named_parameters():
        # The bias of the last one shifts all pooled features alike, and may be without effect.
        assert parameter.grad is not None, name
        assert count == 0 or parameter.dim() == 1 or parameter.grad.abs().sum() > 0, name
    assert all(each.grad is None for each in maps)


def test_a_copy_is_another_head():
    head = make_head(**OPTIONS)
    twin = copy.deepcopy(head)
    maps, *targets = problem()
    expected = f_and_gradient(head, maps, *targets)
    torch.nn.init.zeros_(twin.convolutions[0][0].weight)
    for a, b in zip(f_and_gradient(head, maps, *targets), expected):
        assert torch.equal(a, b)
    twin.load_state_dict(head.state_dict())
    assert torch.equal(f_and_gradient(twin, maps, *targets)[0], expected[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_maps_in_float32(dtype):
    head = make_head(**OPTIONS, standardize=True)
    half = copy.deepcopy(head).to(dtype)
    maps = problem()[0]
    for weights, context in ((half, None), (head, torch.autocast("cpu", dtype=dtype))):
        with torch.no_grad(), context or torch.enable_grad():
            found = weights.prepare([each.to(dtype) for each in maps])
        for a, b in zip(found, head.prepare(maps)):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a, b, rtol=0, atol=0.1)


@pytest.mark.parametrize(
    "settings", [dict(projection_convolutions=2), {**OPTIONS, "projection_convolutions": -1}]
)
def test_they_belong_to_a_projection(settings):
    with pytest.raises(ValueError, match="give projection_channels too, such as 32"):
        make_head(**settings)


def test_the_number_of_channels_is_that_of_each_level():
    head = make_head(**OPTIONS)
    assert head.convolutions[0][0].in_channels == CHANNELS
    assert head.convolutions[0][-1].out_channels == PROJECTED
