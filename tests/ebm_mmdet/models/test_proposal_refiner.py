"""ProposalRefiner: moments, normaliser, samples and modes from a learned proposal."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from ebm_mmdet.energy import MixtureDensity
from ebm_mmdet.models import GradientAscentRefiner, ProposalRefiner
from tests.ebm_mmdet.models.test_proposal_ebm_bbox_head import PROPOSAL
from tests.ebm_mmdet.models.toys import batch, build, ebm_cfg

MODE = torch.tensor([[0.2, -0.1, 0.3, 0.0], [-0.4, 0.1, 0.0, 0.2]])
WIDTH = 0.1


class Toy:
    """A log-density of N targets with a one-component proposal N(mean, std²)."""

    def __init__(self, f, mean, std):
        self.f, n, d = f, *mean.shape
        log_std = torch.as_tensor(std).log().expand(n, 1, d)
        self.q = MixtureDensity(torch.zeros(n, 1), mean.unsqueeze(1), log_std)

    def __call__(self, y):
        return self.f(y)

    def proposal(self):
        return self.q


def gaussian(u):
    return 3.0 - 0.5 * ((u - MODE[:, None]) / WIDTH).square().sum(-1)


def test_mean_covariance_and_normaliser():
    toy = Toy(gaussian, MODE + 0.05, 0.15)
    found = ProposalRefiner(num_samples=20000)(toy, torch.zeros(2, 4))
    error = 5 * WIDTH / found.ess.sqrt()[:, None]
    assert ((found.y - MODE).abs() < error).all()
    expected = WIDTH**2 * torch.eye(4).expand(2, 4, 4)
    torch.testing.assert_close(found.covariance, expected, rtol=0.08, atol=5e-4)
    at_mode = -2 * math.log(2 * math.pi) - 4 * math.log(WIDTH)
    torch.testing.assert_close(found.log_prob, torch.full((2,), at_mode), rtol=0, atol=0.1)
    torch.testing.assert_close(found.log_density, torch.full((2,), 3.0), rtol=0, atol=0.02)


def test_the_right_proposal_makes_every_sample_count():
    found = ProposalRefiner(num_samples=50)(Toy(gaussian, MODE, WIDTH), torch.zeros(2, 4))
    torch.testing.assert_close(found.ess, torch.full((2,), 50.0), rtol=1e-3, atol=0)
    assert found.accepted.tolist() == [1, 1]


def test_samples_are_those_of_the_density():
    toy = Toy(gaussian, MODE + 0.05, 0.15)
    found = ProposalRefiner(num_samples=20000, num_resampled=4000)(toy, torch.zeros(2, 4))
    assert found.samples.shape == (2, 4000, 4)
    torch.testing.assert_close(found.samples.mean(1), MODE, rtol=0, atol=0.015)
    torch.testing.assert_close(found.samples.std(1), torch.full((2, 4), WIDTH), rtol=0.12, atol=0)


def two_modes(u):
    """A low mode at the detection, and a higher one at 0.6."""
    low = -0.5 * (u / 0.05).square().sum(-1)
    high = 2 - 0.5 * ((u - 0.6) / 0.05).square().sum(-1)
    return torch.logaddexp(low, high)


@pytest.mark.filterwarnings("ignore:.*effective sample size")
def test_climbing_from_samples_finds_the_higher_mode():
    climb = dict(step_size=1e-3, num_steps=40)
    y0 = torch.full((3, 4), 0.02)
    from_box = GradientAscentRefiner(**climb)(two_modes, y0)
    torch.testing.assert_close(from_box.y, torch.zeros(3, 4), rtol=0, atol=1e-2)
    toy = Toy(two_modes, torch.full((3, 4), 0.3), 0.3)
    found = ProposalRefiner(num_samples=256, climb=climb)(toy, y0)
    torch.testing.assert_close(found.y, torch.full((3, 4), 0.6), rtol=0, atol=1e-2)
    torch.testing.assert_close(found.log_density, torch.full((3,), 2.0), rtol=0, atol=1e-2)
    assert (found.accepted > 0).all()


@pytest.mark.filterwarnings("ignore:.*effective sample size")
@pytest.mark.parametrize("seed", range(3))
def test_climbing_never_ends_below_the_climb_from_the_box(seed):
    climb = dict(step_size=1e-3, num_steps=5)
    y0 = torch.full((3, 4), 0.02)
    toy = Toy(two_modes, torch.full((3, 4), -1.0), 0.3)  # a proposal that looks elsewhere
    found = ProposalRefiner(num_samples=16, climb=climb, seed=seed)(toy, y0)
    from_box = GradientAscentRefiner(**climb)(two_modes, y0)
    assert (found.log_density >= from_box.log_density - 1e-5).all()


def test_images_do_not_know_of_each_other():
    toy = Toy(gaussian, MODE, 0.2)
    refiner = ProposalRefiner(num_samples=16, num_resampled=5)
    together = refiner(toy, torch.zeros(2, 4), num_per_image=[1, 1])
    toy = Toy(lambda u: -0.5 * ((u - MODE[1:, None]) / WIDTH).square().sum(-1), MODE[1:], 0.2)
    alone = refiner(toy, torch.zeros(1, 4), num_per_image=[1])
    torch.testing.assert_close(alone.y, together.y[1:])
    torch.testing.assert_close(alone.samples, together.samples[1:])


@pytest.mark.parametrize("climb", [None, dict(step_size=1e-3)])
def test_no_boxes_and_no_finite_density(climb):
    none = Toy(lambda u: 1 / 0, torch.zeros(0, 4), 0.1)
    found = ProposalRefiner(8, climb, num_resampled=3)(none, torch.zeros(0, 4))
    assert found.y.shape == (0, 4)
    assert found.covariance.shape == (0, 4, 4)
    assert found.samples.shape == (0, 3, 4)
    lost = Toy(lambda u: u.sum(-1) * torch.nan, MODE, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = ProposalRefiner(8, climb)(lost, torch.zeros(2, 4))
    assert torch.equal(found.y, torch.zeros(2, 4))
    assert found.ess.tolist() == [0, 0]
    assert found.covariance.isfinite().all()
    assert (found.log_prob == -torch.inf).all()


def test_messages():
    with pytest.raises(ValueError, match="ProposalEBMBBoxHead"):
        ProposalRefiner()(gaussian, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="no more groups than samples"):
        ProposalRefiner(num_samples=2, climb=dict(step_size=1e-3))
    with pytest.raises(ValueError, match="steps"):
        ProposalRefiner(climb=dict(steps=3))


def proposal_model(**refiner):
    cfg = ebm_cfg(refiner=dict(type="ProposalRefiner", num_samples=16, **refiner), clip_boxes=False)
    cfg["energy_head"] = {**cfg["energy_head"], **PROPOSAL}
    return build(cfg)


@pytest.mark.parametrize("climb", [None, dict(step_size=1e-3, num_steps=3)])
def test_detections_carry_uncertainty_and_samples(climb):
    model = proposal_model(climb=climb, num_resampled=6)
    data = batch(model)
    with torch.inference_mode():
        samples = model.predict(data["inputs"], data["data_samples"])
    for sample in samples:
        found = sample.pred_instances
        n = len(found)
        assert n > 0
        assert found.box_samples.shape == (n, 6, 4)
        assert found.box_cov.shape == (n, 4, 4)
        assert ((found.ess >= 1) & (found.ess <= 16.01)).all()
        assert found.log_prob.isfinite().all()
        # Samples lie around the box, in the same pixels.
        size = (found.bboxes[:, 2:] - found.bboxes[:, :2]).repeat(1, 2).clamp(min=1)
        assert ((found.box_samples.mean(1) - found.bboxes).abs() < size).all()
