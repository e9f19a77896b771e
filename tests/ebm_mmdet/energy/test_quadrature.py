import math

import pytest
import torch

from ebm_mmdet.energy.quadrature import MAX_VALUES, log_trapezoid_weights, map_in_chunks


def test_trapezoid_rule_integrates_a_gaussian():
    y = torch.linspace(-8, 8, 401, dtype=torch.float64)
    log_z = (-0.5 * y.square() + log_trapezoid_weights(y)).logsumexp(0)
    assert float(log_z) == pytest.approx(0.5 * math.log(2 * math.pi), abs=1e-12)
    line = torch.linspace(0, 3, 7)
    weights = log_trapezoid_weights(line).exp()
    assert weights.dtype == torch.float64
    assert float((weights * line).sum()) == pytest.approx(4.5)


@pytest.mark.parametrize(("low", "high", "points"), [(1900, 2000, 4096), (1e4, 1e4 + 1, 1001)])
def test_a_grid_far_from_zero_has_its_whole_length(low, high, points):
    """Years: in float32, neighbours of a fine grid are no equal distances apart."""
    weights = log_trapezoid_weights(torch.linspace(low, high, points)).exp()
    assert float(weights.sum()) == pytest.approx(high - low, rel=1e-12)


@pytest.mark.parametrize("y", [torch.zeros(1), torch.zeros(3, 2)])
def test_a_grid_needs_two_points(y):
    with pytest.raises(ValueError, match="two or more"):
        log_trapezoid_weights(y)


@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_chunks_cover_everything_once_and_in_order(count):
    items = torch.arange(count)
    parts = map_in_chunks(lambda part: items[part], count, MAX_VALUES // 3)
    assert all(len(part) <= 3 for part in parts)
    assert torch.equal(torch.cat([items[:0], *parts]), items)
    assert len(map_in_chunks(lambda part: items[part], count, 10 * MAX_VALUES)) == count
