"""GradientAscentRefiner: the published rule, the prior, and its messages."""

from __future__ import annotations

import pytest
import torch
from mmengine.structures import InstanceData

from ebm_mmdet.models import GradientAscentRefiner

MODE = torch.tensor([[0.2, -0.1, 0.3, 0.0], [-0.4, 0.1, 0.0, 0.2]])
WIDTH = 0.1


def log_density(u):
    return -0.5 * ((u - MODE[:, None]) / WIDTH).square().sum(-1)


def test_the_published_rule_converges_to_the_mode():
    result = GradientAscentRefiner(step_size=WIDTH**2 / 2, num_steps=40)(
        log_density, torch.zeros(2, 4)
    )
    torch.testing.assert_close(result.y, MODE, atol=1e-4, rtol=0)


def posterior_mode(std, scale, temperature, bias=0.0):
    precision = temperature / WIDTH**2
    prior = 1 / (scale * std) ** 2
    return (precision * MODE + prior * bias) / (precision + prior)


@pytest.mark.parametrize(("scale", "temperature"), [(1.0, 1.0), (0.5, 1.0), (0.25, 4.0)])
def test_with_a_prior_it_finds_the_posterior_mode_without_a_step_size(scale, temperature):
    std = torch.tensor([0.05, 0.05, 0.1, 0.1])
    prior = dict(std=std.tolist(), scale=scale, temperature=temperature)
    result = GradientAscentRefiner(num_steps=60, prior=prior)(log_density, torch.zeros(2, 4))
    expected = posterior_mode(std, scale, temperature)
    torch.testing.assert_close(result.y, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(result.log_density, log_density(result.y[:, None])[:, 0])


def test_bias_moves_the_centre_of_the_prior_but_not_the_start():
    """argmax τ f(y) + log N(y; ŷ + bias, (s Σ)²), climbed from ŷ."""
    std, bias = torch.tensor([0.05, 0.05, 0.1, 0.1]), torch.tensor([0.02, -0.01, 0.05, 0.0])
    detected = torch.tensor([[0.1, 0.0, 0.0, 0.0], [0.0, 0.0, -0.1, 0.0]])
    prior = dict(std=std.tolist(), bias=bias.tolist(), scale=0.5)
    result = GradientAscentRefiner(num_steps=60, prior=prior)(log_density, detected)
    expected = posterior_mode(std, 0.5, 1.0, detected + bias)
    torch.testing.assert_close(result.y, expected, atol=1e-4, rtol=0)
    still = GradientAscentRefiner(num_steps=0, prior=prior)(log_density, detected)
    assert torch.equal(still.y, detected)


def test_a_prior_per_box_needs_nothing_where_nothing_was_detected():
    refiner = GradientAscentRefiner(prior=dict(std="per_box"))
    result = refiner(lambda u: -u.square().sum(-1), torch.zeros(0, 4), [InstanceData()])
    assert result.y.shape == (0, 4)


def test_a_prior_per_box_is_read_from_the_detections():
    std = torch.tensor([[0.01, 0.01, 0.01, 0.01], [0.2, 0.2, 0.2, 0.2]])
    found = [InstanceData(box_std=std[:1]), InstanceData(box_std=std[1:])]
    refiner = GradientAscentRefiner(num_steps=60, prior=dict(std="per_box"))
    result = refiner(log_density, torch.zeros(2, 4), found)
    torch.testing.assert_close(result.y, posterior_mode(std, 1.0, 1.0), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="box_std"):
        refiner(log_density, torch.zeros(2, 4), [InstanceData(scores=torch.ones(2))])


def test_messages():
    with pytest.raises(ValueError, match="needs step_size"):
        GradientAscentRefiner()
    with pytest.raises(ValueError, match="sigma"):
        GradientAscentRefiner(prior=dict(sigma=1.0))
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="prior.scale"):
            GradientAscentRefiner(prior=dict(std=[0.1] * 4, scale=scale))
