"""The heads without an energy: direct, mixture, softmax."""

import math

import pytest
import torch

from ebm_mmdet.regression import PredictionSettings
from tests.ebm_mmdet.energy.contract_checks import seeded
from tests.ebm_mmdet.regression.models import CODECS, HEADS, WIDTH, build_head, labelled, middle

SETTINGS = PredictionSettings(num_samples=64, num_resampled=8, grid_points=65)


def features(n):
    return torch.randn(n, WIDTH, generator=seeded(), requires_grad=True)


@pytest.mark.parametrize("labels", CODECS)
@pytest.mark.parametrize("kind", ["direct", "mixture", "softmax"])
@pytest.mark.parametrize("n", [0, 1, 3])
def test_losses_reach_everything_and_predictions_have_their_shapes(kind, labels, n):
    head, h = build_head(kind, labels), features(n)
    losses = head.loss(h, middle(labels, n))
    assert all(value.isfinite() for value in losses.values())
    # Nothing is unused; with images, features and weights learn.
    grads = torch.autograd.grad(sum(losses.values()), [*head.parameters(), h])
    assert any(g.any() for g in grads) == (n > 0)
    predictions = head.predict(h, middle(labels, n), SETTINGS)
    assert len(predictions) == n
    for sample in predictions:
        dim = head.codec.dim
        assert sample.pred_target.shape == (dim,)
        assert not sample.pred_target.requires_grad
        if kind != "direct":
            assert sample.pred_interval.shape == (4, 2, dim)
            assert (sample.pred_interval[:, 0] <= sample.pred_interval[:, 1]).all()
            assert sample.interval_levels == (0.5, 0.8, 0.9, 0.95)
            assert sample.pred_samples.shape == (8, dim)
            assert sample.gt_log_prob.isfinite()
            assert "ess" not in sample
            assert "log_z" not in sample


@pytest.mark.parametrize("labels", CODECS)
@pytest.mark.parametrize("kind", ["mixture", "softmax"])
def test_densities_have_mass_one_over_the_declared_ranges(kind, labels):
    """∫ exp log_prob dy over the support, in the units of the labels, is one for each image."""
    head, h = build_head(kind, labels), features(2)
    codec, points = head.codec, 60 if labels == "pose" else 500
    low, high = codec._raw_low, codec._raw_high
    unit = (torch.arange(points) + 0.5) / points
    axes = [a + unit * (b - a) for a, b in zip(low, high)]
    y = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
    log_p = head.log_prob(h, y.expand(2, -1, -1), SETTINGS).double()
    mass = (log_p.logsumexp(1) + (high - low).log().sum() - math.log(len(y))).exp()
    torch.testing.assert_close(mass, torch.ones(2).double(), rtol=0.01, atol=0)


def test_mixture_of_one_component_is_the_gaussian():
    head, h = build_head("mixture", "pose", num_components=1), features(3)
    samples = middle("pose", 3)
    z = head.encoded_targets(samples)
    q = head.mixture(h)
    normal = torch.distributions.Normal(q.means[:, 0], q.log_sigmas[:, 0].exp())
    expected = -normal.log_prob(z).sum(1).mean()
    torch.testing.assert_close(head.loss(h, samples)["loss_nll"], expected)


def test_mixture_likelihood_is_that_of_the_truncated_density():
    """log p_raw(y) = log q(z) - log ∫_support q - Σ log std."""
    head, h = build_head("mixture", "pose"), features(2)
    samples = middle("pose", 2)
    predictions = head.predict(h, samples, SETTINGS)
    z = head.codec.encode(torch.stack([s.gt_target for s in samples])).unsqueeze(1)
    q = head.mixture(h)
    low, high = ((e - q.means) / q.log_sigmas.exp() for e in (head.codec.low, head.codec.high))
    normal = torch.distributions.Normal(0.0, 1.0)
    mass = (q.log_weights.exp() * (normal.cdf(high) - normal.cdf(low)).prod(2)).sum(1)
    expected = q.log_prob(z)[:, 0] - mass.log() - head.codec.log_scale
    found = torch.stack([s.gt_log_prob for s in predictions])
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-4)


def test_softmax_density_is_constant_in_bins_and_its_loss_is_the_cross_entropy():
    head = build_head("softmax", "count", num_bins=40, expectation_weight=0.0)
    h = features(2)
    y = torch.tensor([[[1.0], [1.4], [1.6], [40.4]]]).expand(2, -1, -1)
    log_p = head.log_prob(h, y, SETTINGS)
    probs = head.layers(h).detach().softmax(1)  # bins of width 1: [0.5, 1.5), [1.5, 2.5), ...
    torch.testing.assert_close(log_p.exp(), probs[:, [0, 0, 1, 39]])
    assert head.log_prob(h, torch.full((2, 1, 1), 41.0), SETTINGS).eq(-torch.inf).all()
    samples = labelled([[5], [7]])
    expected = -(probs[0, 4].log() + probs[1, 6].log()) / 2
    torch.testing.assert_close(head.loss(h, samples)["loss_ce"], expected)
    # Integers: the mass of the cell is the probability of the bin, and so is the density.
    found = head.predict(h, samples, SETTINGS)
    for sample, p in zip(found, (probs[0, 4], probs[1, 6])):
        torch.testing.assert_close(sample.gt_log_prob, p.log())
        torch.testing.assert_close(sample.gt_log_mass, p.log())


def test_softmax_expectation_loss():
    head = build_head("softmax", "count", num_bins=4, expectation_weight=2.0)
    h, samples = features(1), labelled([[10]])
    head.codec.dequantise = False
    density = head.density(h)
    expected = (density.log_probs[0, 0].exp() * density.centres()[0]).sum()
    z = head.codec.encode(torch.tensor([10.0]))[0]
    loss = head.loss(h, samples)["loss_expectation"]
    torch.testing.assert_close(loss, 2 * (expected - z).square())


def test_softmax_samples_have_the_probabilities_of_the_bins():
    head, h = build_head("softmax", "mixed", num_bins=6), features(1)
    density = head.density(h)
    bins = density.bins(density.draw(20_000, seeded()))[0]
    for d in range(2):
        share = torch.bincount(bins[:, d], minlength=6) / len(bins)
        torch.testing.assert_close(
            share, density.log_probs[0, d].exp().detach(), rtol=0, atol=0.015
        )
    mode = head.posterior(h, SETTINGS).mode()
    assert torch.equal(density.bins(mode[:, None])[0, 0], density.log_probs[0].argmax(1))


def test_direct_angles_are_predicted_through_their_cosine_and_sine():
    head, h = build_head("direct", "angle"), features(2)
    samples = labelled([[180.0], [-180.0]])
    values = head.layers(h)
    expected = (values - torch.tensor([-1.0, 0.0])).square().sum() / 2
    torch.testing.assert_close(head.loss(h, samples)["loss_l2"], expected, rtol=1e-4, atol=1e-5)
    angle = torch.rad2deg(torch.atan2(values[:, 1], values[:, 0]))
    found = torch.stack([s.pred_target for s in head.predict(h)])[:, 0]
    torch.testing.assert_close(found, angle.detach(), rtol=1e-4, atol=1e-3)


def test_direct_losses():
    h, samples = features(3), middle("pose", 3)
    for name, power in (("l1", 1), ("l2", 2)):
        head = build_head("direct", "pose", loss=name)
        error = head.layers(h) - head.codec.encode(head.labels(samples))
        expected = error.abs().pow(power).sum() / 3
        torch.testing.assert_close(head.loss(h, samples)[f"loss_{name}"], expected)
    with pytest.raises(ValueError, match="l2"):
        build_head("direct", loss="huber")


@pytest.mark.parametrize("kind", HEADS)
def test_labels_that_are_missing_or_wrong_are_named(kind):
    head, h = build_head(kind, "count"), features(2)
    samples = labelled([[3], [4]])
    samples[1].gt_target = torch.tensor([50.0])
    with pytest.raises(ValueError, match=r"image 1\.png is \[50\.0\].*ranges"):
        head.loss(h, samples)
    samples[1].gt_target = torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match="one range for each"):
        head.loss(h, samples)
    del samples[1].gt_target
    with pytest.raises(ValueError, match=r"image 1\.png has no label"):
        head.loss(h, samples)


@pytest.mark.parametrize("kind", ["mixture", "softmax", "ebm", "ebm_mdn"])
def test_prediction_of_labelled_and_unlabelled_images(kind):
    head, h = build_head(kind, "count"), features(3)
    samples = labelled([[3], [4], [5]])
    del samples[1].gt_target
    found = head.predict(h, samples, SETTINGS)
    assert ["gt_log_prob" in s for s in found] == [True, False, True]
    assert all("pred_target" in s for s in head.predict(h, None, SETTINGS))
    samples[0].gt_target = torch.tensor([77.0])
    with pytest.raises(ValueError, match=r"image 0\.png is \[77"):
        head.predict(h, samples, SETTINGS)
    with pytest.raises(ValueError, match="1 data samples for 3 images"):
        head.predict(h, samples[:1], SETTINGS)


@pytest.mark.parametrize("labels", CODECS)
@pytest.mark.parametrize("kind", ["mixture", "softmax", "ebm", "ebm_mdn"])
def test_prediction_does_not_depend_on_the_batch(kind, labels):
    head, h = build_head(kind, labels), features(3)
    together = head.predict(h, middle(labels, 3), SETTINGS)
    alone = head.predict(h[1:2], middle(labels, 2)[1:], SETTINGS)[0]
    close = {"rtol": 1e-3, "atol": 1e-3}
    for key in ("pred_target", "pred_std", "pred_interval", "gt_log_prob"):
        torch.testing.assert_close(alone.get(key), together[1].get(key), **close)


@pytest.mark.parametrize("point", ["mean", "median", "mode"])
def test_points_of_a_known_density(point):
    """Of a narrow Gaussian all three are its centre; of a skewed one they differ as they should."""
    head, h = build_head("mixture", "count", num_components=2), features(1)
    with torch.no_grad():
        head.mixture.weights[2].weight.zero_()
        head.mixture.weights[2].bias.copy_(torch.tensor([0.7, 0.3]).log())
        head.mixture.means[2].weight.zero_()
        head.mixture.means[2].bias.copy_(torch.tensor([-1.0, 1.0]))
        head.mixture.log_sigmas[2].weight.zero_()
        head.mixture.log_sigmas[2].bias.fill_(math.log(0.05))
    settings = PredictionSettings(point=point, num_samples=4000)
    found = head.predict(h, None, settings)[0]
    z = float(head.codec.encode(found.pred_target))
    wanted = {"mean": -0.4, "median": -0.97, "mode": -1.0}[point]
    assert z == pytest.approx(wanted, abs=0.04)
    spread = math.sqrt(0.05**2 + 4 * 0.7 * 0.3)
    assert float(found.pred_std / head.codec.std) == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize(
    "settings",
    [
        {"point": "best"},
        {"method": "monte carlo"},
        {"num_samples": 1},
        {"interval_levels": (0.5, 1.0)},
        {"uniform_share": 2.0},
        {"num_resampled": -1},
    ],
)
def test_settings_outside_their_range(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        PredictionSettings(**settings)
