import math

import numpy as np
import pytest
import torch

from ebm_mmdet.regression.posterior import Posterior, weighted_quantiles
from tests.ebm_mmdet.energy.contract_checks import seeded
from tests.ebm_mmdet.regression.models import codec

LEVELS = (0.05, 0.31, 0.5, 0.77, 0.95)


def test_weighted_quantiles_are_those_of_repeated_points():
    """With counts as weights, NumPy's inverted_cdf of the repeated points, per coordinate."""
    g = seeded()
    y = torch.randn(3, 17, 2, generator=g)
    counts = torch.randint(0, 6, (3, 17), generator=g)
    counts[:, 0] += 1 - counts.sum(1) % 2  # an odd number, so that the median is a point
    weights = counts / counts.sum(1, keepdim=True)
    found = weighted_quantiles(y, weights, LEVELS)
    assert found.shape == (3, 5, 2)
    for n in range(3):
        repeated = np.repeat(y[n].numpy(), counts[n].numpy(), axis=0)
        expected = np.quantile(repeated, LEVELS, axis=0, method="inverted_cdf")
        np.testing.assert_array_equal(found[n].numpy(), expected.astype(np.float32))
        np.testing.assert_array_equal(found[n, 2].numpy(), np.median(repeated, axis=0))


def test_quantiles_of_no_image_and_of_one_point():
    assert weighted_quantiles(torch.zeros(0, 4, 2), torch.zeros(0, 4), LEVELS).shape == (0, 5, 2)
    one = weighted_quantiles(torch.full((1, 1, 1), 3.0), torch.ones(1, 1), LEVELS)
    assert (one == 3).all()


def test_equal_weights_reach_a_level_exactly():
    y = torch.arange(10.0).view(1, 10, 1)
    found = weighted_quantiles(y, torch.full((1, 10), 0.1), [0.1, 0.3, 0.7, 1.0, 0.0])
    assert found.flatten().tolist() == [0, 2, 6, 9, 0]


def posterior(labels, points, weights=None, f=None):
    c = codec(labels)
    n, m, _ = points.shape
    weights = torch.full((n, m), 1 / m) if weights is None else weights
    f = (lambda z: -z.square().sum(-1)) if f is None else f
    return Posterior(points, weights, f, f(points), torch.zeros(n), None, c)


def test_angles_around_180_degrees():
    c = codec("angle")
    degrees = torch.tensor([170.0, 175, 180, -175, -170]).view(1, 5, 1)
    p = posterior("angle", c.encode(degrees))
    close = {"rtol": 0, "atol": 1e-3}
    half_turn = torch.tensor([[180.0]])
    for point in (p.mean(), p.median()):
        error = c.difference(point, c.encode(half_turn))
        torch.testing.assert_close(error, torch.zeros(1, 1), **close)
    interval = c.decode(p.intervals([0.9]), wrap=False).flatten()
    assert interval[0] < interval[1]
    torch.testing.assert_close(interval.diff(), torch.tensor([20.0]), **close)
    torch.testing.assert_close(
        p.std() * c.std, torch.tensor([[math.sqrt(50.0)]]), rtol=1e-4, atol=1e-4
    )
    assert torch.equal(c.contains(p.median()), torch.tensor([True]))


def test_range_from_0_to_360_has_its_mean_inside():
    c = codec("mixed")
    points = c.encode(torch.tensor([[[350.0, 1.0], [20.0, 3.0]]]))
    p = posterior("mixed", points)
    torch.testing.assert_close(c.decode(p.mean()), torch.tensor([[5.0, 2.0]]), rtol=1e-4, atol=1e-3)
    points = c.encode(torch.tensor([[[340.0, 1.0], [350.0, 1.0]]]))
    mean = c.decode(posterior("mixed", points).mean())
    torch.testing.assert_close(mean, torch.tensor([[345.0, 1.0]]), rtol=1e-4, atol=1e-3)


def test_mode_is_climbed_to_and_stays_in_the_support():
    points = torch.linspace(-1.7, 1.7, 9).view(1, 9, 1)
    inside = posterior("count", points, f=lambda z: -4 * (z[..., 0] - 0.3).square())
    torch.testing.assert_close(inside.mode(), torch.tensor([[0.3]]), rtol=0, atol=1e-3)
    outside = posterior("count", points, f=lambda z: 3 * z[..., 0])
    torch.testing.assert_close(outside.mode(), outside.codec.high.view(1, 1))
    # Across the border of a circle.
    circle = posterior(
        "angle",
        torch.tensor([[[3.0], [-3.0], [0.0]]]),
        f=lambda z: 5 * (z[..., 0] + 3.05).cos(),
    )
    error = circle.codec.difference(circle.mode(), torch.tensor([[-3.05]]))
    assert error.abs() < 1e-2


def test_points_of_no_weight_are_no_samples():
    points = torch.tensor([[[0.0], [1.0], [-1.0]]])
    p = posterior("count", points, torch.tensor([[0.5, 0.5, 0.0]]))
    drawn = p.samples(200)
    assert set(drawn.flatten().tolist()) == {0.0, 1.0}
    assert float(p.mean()) == pytest.approx(0.5)
    both = posterior("count", points.repeat(2, 1, 1), torch.tensor([[0.5, 0.5, 0], [0.1, 0.9, 0]]))
    assert torch.equal(both.samples(200)[:1], drawn), "depends on the other images of the batch"


def test_no_image():
    p = posterior("count", torch.zeros(0, 5, 1))
    assert p.mean().shape == p.median().shape == p.mode().shape == (0, 1)
    assert p.intervals([0.5, 0.9]).shape == (0, 2, 2, 1)
    assert p.samples(4).shape == (0, 4, 1)
    assert p.log_prob(torch.zeros(0, 3, 1)).shape == (0, 3)
