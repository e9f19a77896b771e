"""GradientAscentRefiner: the published rule, the prior, and its messages."""

from __future__ import annotations

import pytest
import torch

from ebm_mmdet.energy import gradient_ascent
from ebm_mmdet.models import GradientAscentRefiner, ImportanceMeanRefiner
from ebm_mmdet.models.side_uncertainty import side_std_to_covariance

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


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("prior", [None, dict(std=[0.05] * 4)])
def test_the_log_density_is_minus_infinity_where_f_is_not_finite(prior, value):
    def log_density(u):
        return torch.stack((u[0].sum(-1), u[1].sum(-1) * value))

    result = GradientAscentRefiner(1e-3, prior=prior)(log_density, torch.zeros(2, 4) + 0.1)
    assert result.log_density[0].isfinite()
    assert result.log_density[1] == -torch.inf
    assert torch.equal(result.y[1], torch.full((4,), 0.1))


def test_a_prior_per_box_needs_nothing_where_nothing_was_detected():
    refiner = GradientAscentRefiner(prior=dict(std="per_box"))
    result = refiner(lambda u: -u.square().sum(-1), torch.zeros(0, 4))
    assert result.y.shape == (0, 4)


def test_a_prior_per_box_is_read_from_the_detections():
    std = torch.tensor([[0.01, 0.01, 0.01, 0.01], [0.2, 0.2, 0.2, 0.2]])
    covariance = torch.diag_embed(std.square())
    refiner = GradientAscentRefiner(num_steps=60, prior=dict(std="per_box"))
    result = refiner(log_density, torch.zeros(2, 4), covariance=covariance)
    torch.testing.assert_close(result.y, posterior_mode(std, 1.0, 1.0), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="box_std"):
        refiner(log_density, torch.zeros(2, 4))


BOXES = torch.tensor([[10.0, 20, 50, 70], [0, 0, 30, 20]])
SIDE_STD = torch.tensor([[4.0, 1, 1, 4], [0.5, 2, 2, 3]])


@pytest.mark.parametrize(("scale", "temperature"), [(1.0, 1.0), (0.5, 2.0)])
def test_the_prior_per_box_is_the_whole_covariance_of_the_detector(scale, temperature):
    """argmax τ f(y) + log N(y; ŷ, s² Σ) = (τA + P)⁻¹ (τA m + P ŷ),  P = (s² Σ)⁻¹."""
    covariance = side_std_to_covariance(BOXES, SIDE_STD)
    std = covariance.diagonal(dim1=1, dim2=2).sqrt()
    prior = dict(std="per_box", scale=scale, temperature=temperature)
    result = GradientAscentRefiner(num_steps=200, prior=prior)(
        log_density, torch.zeros(2, 4), covariance=covariance
    )
    pull = temperature / WIDTH**2 * torch.eye(4).double()
    precision = torch.linalg.inv(scale**2 * covariance.double())
    expected = torch.linalg.solve(pull + precision, pull @ MODE.double()[:, :, None])[..., 0]
    # Nearer to the top, float32 cannot tell two values of the posterior apart.
    torch.testing.assert_close(result.y.double(), expected, atol=5e-4, rtol=0)
    # Without the correlations it would be elsewhere.
    assert (result.y - posterior_mode(std, scale, temperature)).abs().max() > 0.01


@pytest.mark.parametrize("ratio", [1e-4, 1.0, 1e4])
def test_one_side_may_be_known_much_better_than_the_other(ratio):
    """Covariances that float32 cannot tell from singular ones are priors too."""
    side_std = torch.tensor([[1.0, 1, ratio, ratio], [1, ratio, 1, 1 / ratio]])
    covariance = side_std_to_covariance(BOXES, side_std)
    refiner = GradientAscentRefiner(prior=dict(std="per_box"))
    result = refiner(log_density, torch.zeros(2, 4), covariance=covariance)
    assert result.y.isfinite().all()
    assert (result.log_density >= log_density(torch.zeros(2, 1, 4))[:, 0]).all()


def test_what_is_no_covariance_is_refused():
    for broken in (torch.full((2, 4, 4), torch.nan), -torch.eye(4).expand(2, 4, 4)):
        refiner = GradientAscentRefiner(prior=dict(std="per_box"))
        with pytest.raises(ValueError, match="box_cov of 2 of 2"):
            refiner(log_density, torch.zeros(2, 4), covariance=broken)


@pytest.mark.parametrize("size", [1e-24, 1e24])
@pytest.mark.parametrize("per_box", [False, True])
def test_a_prior_out_of_the_range_of_float32_is_refused(size, per_box):
    """Each number is positive and finite: its product with the scale, or its square, is not."""
    covariance = torch.diag_embed(torch.full((2, 4), size).double().square())
    prior = dict(std="per_box" if per_box else [size] * 4, scale=size)
    for refiner in (
        GradientAscentRefiner(prior=prior),
        GradientAscentRefiner(step_size=0.1, prior=prior),
        ImportanceMeanRefiner(prior=prior, num_samples=8),
    ):
        with pytest.raises(ValueError, match=r"prior\.std=.*prior\.scale"):
            refiner(log_density, torch.zeros(2, 4), covariance=covariance)
    if size > 1:
        prior["scale"] = 1.0  # the prior is one, but λ = std² is none
        with pytest.raises(ValueError, match=r"prior\.std="):
            GradientAscentRefiner(prior=prior)(
                log_density, torch.zeros(2, 4), covariance=covariance
            )


def test_the_acceleration_is_that_of_the_climb():
    options = dict(acceleration="bb", tolerance=1e-3)
    found = GradientAscentRefiner(step_size=1e-3, num_steps=12, **options)(
        log_density, torch.zeros(2, 4)
    )
    expected = gradient_ascent(log_density, torch.zeros(2, 4), 1e-3, 12, **options)
    assert torch.equal(found.y, expected.y)
    assert (found.accepted <= 4).all()


def test_with_a_prior_barzilai_borwein_is_at_the_mode_in_four_steps():
    std = torch.tensor([0.05, 0.05, 0.1, 0.1])
    prior, start = dict(std=std.tolist()), torch.zeros(2, 4)
    expected = posterior_mode(std, 1.0, 1.0)
    plain, found = (
        GradientAscentRefiner(num_steps=4, prior=prior, acceleration=each)(log_density, start)
        for each in (None, "bb")
    )
    error = (found.y - expected).abs().max()
    assert error < 1e-2
    assert error < 0.5 * (plain.y - expected).abs().max()


def test_messages():
    with pytest.raises(ValueError, match="acceleration='newton'"):
        GradientAscentRefiner(step_size=1e-3, acceleration="newton")
    with pytest.raises(ValueError, match="needs step_size"):
        GradientAscentRefiner()
    with pytest.raises(ValueError, match="sigma"):
        GradientAscentRefiner(prior=dict(sigma=1.0))
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="prior.scale"):
            GradientAscentRefiner(prior=dict(std=[0.1] * 4, scale=scale))
    for std in ("per-box", [0.1, 0.0, 0.1, 0.1], [], [float("inf")] * 4):
        with pytest.raises(ValueError, match="prior.std=.*'per_box'"):
            GradientAscentRefiner(prior=dict(std=std))
    for temperature in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="prior.temperature=.*not negative"):
            GradientAscentRefiner(prior=dict(std=[0.1] * 4, temperature=temperature))
    for bias in (float("nan"), [0.0, float("nan"), 0.0, 0.0], (float("inf"),) * 4, [], "median"):
        with pytest.raises(ValueError, match="prior.bias=.*finite"):
            GradientAscentRefiner(prior=dict(std=[0.1] * 4, bias=bias))
    GradientAscentRefiner(prior=dict(std=[0.1] * 4, temperature=0.0, bias=0))  # the prior alone
    for prior in (dict(std=[0.1] * 3), dict(std=[0.1] * 4, bias=[0.0] * 7)):
        with pytest.raises(ValueError, match="4 coordinates"):
            GradientAscentRefiner(prior=prior)(log_density, torch.zeros(2, 4))


HILLS = torch.tensor([[0.3, 0.0, 0.4, 0.0], [-0.3, 0.0, -0.4, 0.0]])


def two_hills(u):
    """0.4 N(h₁, 0.1²) + 0.6 N(h₂, 0.1²), for every box."""
    z = (u.unsqueeze(-2) - HILLS) / WIDTH
    return (-0.5 * z.square().sum(-1) + torch.tensor([0.4, 0.6]).log()).logsumexp(-1)


def climb_two_hills(**options):
    settings = {"step_size": 5e-3, "num_steps": 40, "num_starts": 6, "start_std": 0.3, **options}
    return GradientAscentRefiner(**settings)(two_hills, torch.zeros(3, 4))


def test_one_start_is_bit_for_bit_the_plain_climb():
    plain = GradientAscentRefiner(5e-3)(two_hills, torch.full((3, 4), 0.1))
    again = GradientAscentRefiner(5e-3, start_std=0.3)(two_hills, torch.full((3, 4), 0.1))
    assert all(torch.equal(a, b) for a, b in zip(plain[:3], again[:3]))
    assert plain[3:] == again[3:] == (None,) * 7


def test_several_starts_find_the_higher_hill_from_the_valley():
    """From a point closer to the lower hill one climb ends there, and six on the higher one."""
    y0 = torch.full((3, 4), 0.0) + torch.tensor([0.05, 0, 0.05, 0])
    one = GradientAscentRefiner(5e-3, num_steps=40)(two_hills, y0)
    torch.testing.assert_close(one.y, HILLS[:1].expand(3, -1), atol=0.01, rtol=0)
    six = GradientAscentRefiner(5e-3, num_steps=40, num_starts=6, start_std=0.3)(two_hills, y0)
    torch.testing.assert_close(six.y, HILLS[1:].expand(3, -1), atol=0.01, rtol=0)
    assert (six.log_density > one.log_density).all()
    assert six.modes is None


def test_modes_begin_with_the_box_and_have_their_masses():
    result = climb_two_hills(num_modes=3, num_samples=512)
    assert torch.equal(result.modes[:, 0], result.y)
    torch.testing.assert_close(result.modes[:, 1], HILLS[:1].expand(3, -1), atol=0.01, rtol=0)
    assert torch.isnan(result.modes[:, 2]).all()
    expected = torch.tensor([[0.6, 0.4]]).expand(3, -1)
    torch.testing.assert_close(result.mode_mass[:, :2], expected, atol=0.06, rtol=0)
    assert torch.isnan(result.mode_mass[:, 2]).all()


def test_the_prior_tells_the_starts_and_weighs_the_modes():
    """With a prior on the lower hill, that one is kept: modes are those of the posterior."""
    prior = dict(std=[0.4] * 4, bias=[0.3, 0.0, 0.4, 0.0])
    result = climb_two_hills(prior=prior, start_std=None, num_modes=2, return_trace=True)
    assert (result.y - HILLS[0]).norm(dim=1).max() < 0.1
    assert (result.mode_mass[:, 0] > 0.6).all()
    torch.testing.assert_close(result.log_density, two_hills(result.y))  # without the prior
    assert result.trace.y.shape == (41, 3, 4)


def test_a_prior_per_box_spreads_the_starts_too():
    covariance = torch.diag_embed(torch.full((3, 4), 0.4).square())
    refiner = GradientAscentRefiner(
        num_steps=40, prior=dict(std="per_box"), num_starts=6, num_modes=2
    )
    result = refiner(two_hills, torch.zeros(3, 4), covariance=covariance)
    assert result.modes.shape == (3, 2, 4)
    assert (result.modes[:, 0] - HILLS[1]).norm(dim=1).max() < 0.1
    nothing = refiner(two_hills, torch.zeros(0, 4), covariance=None)
    assert nothing.modes.shape == (0, 2, 4)
    assert nothing.mode_mass.shape == (0, 2)


def test_messages_about_several_starts():
    for options, match in (
        (dict(num_starts=0), "num_starts=0"),
        (dict(num_starts=3), "needs start_std"),
        (dict(num_modes=1), "no more modes than starts|needs several starts"),
        (dict(num_starts=3, start_std=0.1, num_modes=4), "num_modes=4"),
        (dict(num_starts=3, start_std=-0.1), "start_std=-0.1"),
        (dict(num_starts=3, start_std=0.1, num_samples=7), "num_samples=7"),
        (dict(num_starts=30, start_std=0.1, num_samples=8), "num_samples=8"),
    ):
        with pytest.raises(ValueError, match=match):
            GradientAscentRefiner(1e-3, **options)
    with pytest.raises(ValueError, match="4 coordinates"):
        climb_two_hills(start_std=[0.1] * 3)
