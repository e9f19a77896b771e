import math

import numpy as np
import pytest
import torch

from lab.regression1d.data import DATASETS, draw_y, load_dataset

N = 200_000


def draws(name, x_range, seed=0):
    rng = np.random.RandomState(seed)
    x = rng.uniform(*x_range, N).astype(np.float32)
    return x.astype(np.float64), draw_y(name, x, rng).astype(np.float64)


def test_share_of_the_lower_branch():
    x, y = draws("1", (-3, 0))
    clear = np.abs(np.sin(x)) > 0.3
    lower = np.abs(y + np.sin(x)) < np.abs(y - np.sin(x))
    assert lower[clear].mean() == pytest.approx(0.2, abs=0.007)
    residual = np.where(lower, y + np.sin(x), y - np.sin(x))[clear]
    assert residual.std() == pytest.approx(0.075, rel=0.01)


def test_skewed_half_is_log_normal():
    _, y = draws("1", (0, 3))
    log_z = np.log(y + 1)
    assert log_z.mean() == pytest.approx(0, abs=0.004)
    assert log_z.std() == pytest.approx(0.25, abs=0.003)


def test_width_of_the_second_set():
    x, y = draws("2", (-3, 3))
    z = (y - np.sin(x)) / (0.15 / (1 + np.exp(-x)))
    assert z.mean() == pytest.approx(0, abs=0.01)
    assert z.std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("name", "checksum", "sizes"),
    [
        ("1", "c025d70f53295072", (2000, 2000)),
        ("2", "44706a11db92c8d3", (2000, 2000)),
        ("umal", "b64a000c57982b61", (1710, 1900)),
    ],
)
def test_draws_never_change(name, checksum, sizes):
    dataset = load_dataset(name)
    assert (len(dataset.x), len(dataset.test_x)) == sizes
    assert dataset.checksum() == checksum
    assert load_dataset(name).checksum() == checksum


@pytest.mark.parametrize("name", DATASETS)
def test_true_density_integrates_to_one(name):
    dataset = load_dataset(name)
    low, high = dataset.x_range
    x = torch.linspace(low, high, 12, dtype=torch.float64)[1:-1, None]
    # Midpoints: the first piece of 1D-2 is infinite at its end.
    y = torch.linspace(-14, 14, 400_001, dtype=torch.float64)
    y, width = (y[1:] + y[:-1]) / 2, y[1] - y[0]
    for row in x:
        mass = dataset.true_log_density(row, y).exp().sum() * width
        assert mass == pytest.approx(1, abs=3e-3)


def test_oracle_likelihood_of_the_umal_set():
    # The entropy of its pieces, weighted: 1.253, by quadrature (docs/regression1d.md).
    dataset = load_dataset("umal")
    index = torch.arange(3800, dtype=torch.float64)[:, None] / 3799
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    segments = []
    for start, stop, stride in ((0, 1, 1), (801, 1800, 2), (1805, 2300, 10), (2300, 2301, 1)):
        x = index[start:stop:stride]
        # For the first piece y = 0.5 + 5 u² makes the integrand smooth.
        y, jacobian = (0.5 + 5 * u.square(), 10 * u) if start == 0 else (-14 + 28 * u, 28.0)
        log_p = dataset.true_log_density(x, y)
        terms = torch.where(log_p.isfinite(), log_p.exp() * log_p, 0.0)
        segments.append(float(-(terms * jacobian).mean(1).mean()))
    assert segments == pytest.approx([1.303, 0.729, 1.877, 1.369], abs=0.006)
    weights = np.array([800, 1000, 500, 1500]) / 3800
    assert float(weights @ segments) == pytest.approx(1.253, abs=0.003)
    drawn = -dataset.true_log_density(dataset.test_x.double(), dataset.test_y.double()).mean()
    assert drawn == pytest.approx(1.253, abs=5 * 1.2 / math.sqrt(1900))


def test_unknown_set():
    with pytest.raises(ValueError, match=r"dataset '3' is unknown; choose from 1, 2, umal"):
        load_dataset("3")
