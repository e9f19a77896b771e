"""ImportanceMeanRefiner: closed-form posterior, one pooling pass, and what happens without f."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch
from mmdet.registry import METRICS

from ebm_mmdet.energy import importance
from ebm_mmdet.models import ImportanceMeanRefiner, change_reference, decode_boxes, encode_boxes
from ebm_mmdet.models.side_uncertainty import side_std_to_covariance
from tests.ebm_mmdet.models.toys import NUM_CLASSES, batch, build, ebm_cfg

STD = [0.05, 0.05, 0.1, 0.1]
PRIOR = dict(std=STD, scale=0.5, temperature=1.0)
SIGMA = 0.5 * torch.tensor(STD)


class Counted:
    """A log-density that records the shapes of its arguments."""

    def __init__(self, f):
        self.f, self.shapes = f, []

    def __call__(self, y):
        self.shapes.append(tuple(y.shape))
        return self.f(y)


def quadratic(mode, width):
    return lambda u: -0.5 * ((u - mode[:, None]) / width).square().sum(-1)


def refine(f, n=2, prior=PRIOR, num_samples=32, covariance=None, **kwargs):
    refiner = ImportanceMeanRefiner(prior, num_samples, **kwargs)
    return refiner(f, torch.zeros(n, 4), covariance=covariance)


def gaussian_product(mode, width, sigma, tau=1.0):
    """Mean and variance of τ f + log N(0, σ²)."""
    precision, likelihood = tau / width**2 + 1 / sigma**2, tau / width**2
    return likelihood * mode / precision, 1 / precision


@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_mean_covariance_and_normaliser_of_a_gaussian_posterior(tau):
    mode, width = torch.tensor([[0.03, -0.02, 0.05, 0.0], [-0.02, 0.0, -0.05, 0.1]]), 0.06
    found = refine(quadratic(mode, width), prior={**PRIOR, "temperature": tau}, num_samples=20000)
    mean, variance = gaussian_product(mode, width, SIGMA, tau)
    error = 5 * (variance.sqrt() / found.ess.sqrt()[:, None])
    assert ((found.y - mean).abs() < error).all()
    torch.testing.assert_close(
        found.covariance, torch.diag(variance).expand(2, 4, 4), rtol=0.08, atol=5e-5
    )
    assert (found.ess > 1000).all()
    # Normalised: at the mean of a Gaussian, log p = -½ log det(2πC).
    expected = -0.5 * (2 * math.pi * variance).log().sum().expand(2)
    torch.testing.assert_close(found.log_prob, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_few_samples_come_close(seed):
    mode, width = torch.tensor([[0.03, -0.02, 0.05, 0.0], [-0.02, 0.0, -0.05, 0.1]]), 0.06
    found = refine(quadratic(mode, width), seed=seed)
    mean, _ = gaussian_product(mode, width, SIGMA)
    assert ((found.y - mean) / SIGMA).abs().max() < 0.35


def test_flat_density_returns_the_prior_exactly():
    found = refine(lambda u: u.sum(-1) * 0 + 3)
    torch.testing.assert_close(found.y, torch.zeros(2, 4), rtol=0, atol=1e-7)
    torch.testing.assert_close(found.covariance, torch.diag(SIGMA**2).expand(2, 4, 4))
    torch.testing.assert_close(found.ess, torch.full((2,), 32.0))
    torch.testing.assert_close(found.log_density, torch.full((2,), 3.0))


def test_bias_moves_the_prior_and_its_samples():
    bias = [0.01, -0.02, 0.0, 0.03]
    found = refine(lambda u: u.sum(-1) * 0, prior={**PRIOR, "bias": bias})
    torch.testing.assert_close(found.y, torch.tensor([bias, bias]), rtol=0, atol=1e-7)
    torch.testing.assert_close(found.covariance, torch.diag(SIGMA**2).expand(2, 4, 4))


def test_the_samples_of_a_box_are_scored_at_once():
    f = Counted(lambda u: -u.square().sum(-1))
    refine(f, n=5)
    assert f.shapes == [(5, 32, 4), (5, 1, 4)]


def test_a_prior_per_box():
    per_box = torch.tensor([STD, [2 * s for s in STD]])
    covariance = torch.diag_embed(per_box.square())
    prior = {**PRIOR, "std": "per_box"}
    result = refine(lambda u: 0 * u.sum(-1), prior=prior, covariance=covariance)
    torch.testing.assert_close(result.covariance[1], 4 * result.covariance[0])
    with pytest.raises(ValueError, match="box_std"):
        refine(lambda u: 0 * u.sum(-1), prior=dict(std="per_box"))


def test_a_prior_per_box_draws_from_the_whole_covariance():
    """Where f is flat: mean ŷ, covariance s² Σ, to rounding. Else: (τA + P)⁻¹, P = (s² Σ)⁻¹."""
    boxes = torch.tensor([[10.0, 20, 50, 70], [0, 0, 30, 20]])
    covariance = side_std_to_covariance(boxes, torch.tensor([[4.0, 1, 1, 4], [0.5, 2, 2, 3]]))
    prior = dict(std="per_box", scale=0.5)
    flat = refine(lambda u: 0 * u.sum(-1), prior=prior, covariance=covariance)
    torch.testing.assert_close(flat.covariance, 0.25 * covariance, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(flat.y, torch.zeros(2, 4), rtol=0, atol=1e-7)

    mode, width = torch.tensor([[0.03, -0.02, 0.05, 0.0], [-0.02, 0.0, -0.05, 0.1]]), 0.06
    bent = refine(quadratic(mode, width), prior=prior, num_samples=20000, covariance=covariance)
    precision = torch.linalg.inv(0.25 * covariance) + torch.eye(4) / width**2
    expected = torch.linalg.inv(precision)
    torch.testing.assert_close(bent.covariance, expected, rtol=0.1, atol=5e-5)
    mean = (expected @ mode[:, :, None] / width**2).squeeze(2)
    std = expected.diagonal(dim1=1, dim2=2).sqrt()
    assert ((bent.y - mean).abs() < 5 * std / bent.ess.sqrt()[:, None]).all()
    log_det = torch.linalg.slogdet(2 * math.pi * expected).logabsdet
    torch.testing.assert_close(bent.log_prob, -0.5 * log_det, rtol=0, atol=0.1)


def test_boxes_do_not_know_of_each_other():
    mode = 0.03 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    together = refine(quadratic(mode, 0.06), n=5)
    alone = refine(quadratic(mode[3:4], 0.06), n=1)
    torch.testing.assert_close(together.y[3:4], alone.y)
    other = refine(quadratic(mode, 0.06), n=5, seed=1)
    assert not torch.equal(other.y, together.y)


@pytest.mark.parametrize("value", [-torch.inf, torch.nan, torch.inf])
def test_where_f_is_nowhere_finite_the_box_stays(value):
    def f(u):
        return torch.stack([torch.full_like(u[0, :, 0], value), -u[1, :, 0]])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = refine(f)
        biased = refine(f, prior={**PRIOR, "bias": [0.1, -0.2, 0.0, 0.3]})
    assert torch.equal(biased.y[0], torch.zeros(4))
    torch.testing.assert_close(biased.covariance[0], torch.diag(SIGMA**2), rtol=1e-4, atol=1e-7)
    assert torch.equal(found.y[0], torch.zeros(4))
    assert found.ess[0] == 0
    assert found.accepted.tolist() == [0, 1]
    assert found.log_density[0] == found.log_prob[0] == -torch.inf
    torch.testing.assert_close(found.covariance[0], torch.diag(SIGMA**2))
    values = (found.y, found.log_density, found.covariance, found.ess, found.log_prob)
    assert all(value[1].isfinite().all() for value in values)


def test_samples_without_a_finite_f_are_left_out():
    def f(u):
        return torch.where(u[..., 0] > 0, 0.0, torch.nan)

    found = refine(f, num_samples=64)
    assert (found.y[:, 0] > 0.01).all()
    assert found.covariance.isfinite().all()


def test_all_weight_on_one_sample_is_said_once(monkeypatch):
    monkeypatch.setattr(importance._Warned, "already", False)
    f = lambda u: 1e6 * u[..., 0]  # noqa: E731
    with pytest.warns(RuntimeWarning, match="effective sample size"):
        found = refine(f)
    torch.testing.assert_close(found.ess, torch.ones(2))
    torch.testing.assert_close(found.covariance, torch.zeros(2, 4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refine(f)


def test_no_boxes_need_no_call():
    found = refine(lambda u: 1 / 0, n=0)
    assert found.y.shape == (0, 4)
    assert found.covariance.shape == (0, 4, 4)
    assert found.ess.shape == found.log_prob.shape == found.accepted.shape == (0,)


def test_messages():
    with pytest.raises(ValueError, match="pairs"):
        ImportanceMeanRefiner(PRIOR, num_samples=31)
    with pytest.raises(ValueError, match="at least 8"):
        refine(lambda u: -u.sum(-1), num_samples=6)
    with pytest.raises(ValueError, match="sigma"):
        ImportanceMeanRefiner(dict(sigma=1.0))


def test_covariance_relative_to_another_box():
    """A sample of boxes has the covariance that its own coordinates relative to each box have."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.tensor([[10.0, 20, 60, 50]], dtype=torch.float64)
    other = torch.tensor([[12.0, 18, 52, 68]], dtype=torch.float64)
    u = 0.1 * torch.randn(500, 4, generator=generator, dtype=torch.float64)
    boxes = decode_boxes(u, reference)
    expected = encode_boxes(boxes, other).T.cov()
    torch.testing.assert_close(change_reference(u.T.cov()[None], reference, other)[0], expected)


REFINER = dict(type="ImportanceMeanRefiner", prior=dict(std=STD, scale=1.0))


def predict(model, data, rescale=True):
    with torch.inference_mode():
        samples = model.predict(data["inputs"], data["data_samples"], rescale=rescale)
    return [sample.pred_instances for sample in samples]


def test_detections_carry_their_uncertainty():
    model = build(ebm_cfg(refiner=REFINER, clip_boxes=False))
    data = batch(model)
    plain = build(ebm_cfg(refiner=None, clip_boxes=False))
    for base, found in zip(predict(plain, batch(plain)), predict(model, data)):
        n = len(found)
        assert n > 0
        assert torch.equal(base.scores, found.scores)
        assert (found.bboxes != base.bboxes).any(1).all()
        assert found.box_cov.shape == (n, 4, 4)
        torch.testing.assert_close(found.box_cov.diagonal(dim1=1, dim2=2), found.box_std.square())
        assert ((found.ess >= 1) & (found.ess <= 32.001)).all()
        assert found.log_prob.isfinite().all()
        # Not wider than the prior by more than what few samples can do.
        assert (found.box_std < 2 * torch.tensor(STD)).all()


def test_uncertainty_does_not_depend_on_the_scale_of_the_image():
    model = build(ebm_cfg(refiner=REFINER, clip_boxes=False))
    network = predict(model, batch(model), rescale=False)
    data = batch(model)
    for sample in data["data_samples"]:
        sample.set_metainfo({"scale_factor": (2.0, 0.5)})
    for a, b in zip(network, predict(model, data)):
        torch.testing.assert_close(a.box_std, b.box_std, rtol=1e-2, atol=1e-4)


def test_images_do_not_influence_each_other():
    model = build(ebm_cfg(refiner=REFINER))
    together = predict(model, batch(model))
    data = batch(model)
    one = {"inputs": data["inputs"][1:], "data_samples": data["data_samples"][1:]}
    (alone,) = predict(model, one)
    torch.testing.assert_close(alone.bboxes, together[1].bboxes, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(alone.box_std, together[1].box_std, rtol=1e-2, atol=1e-4)


def test_the_metric_reads_what_the_detector_gives(tmp_path):
    """Objects drawn from each detection's own posterior are calibrated."""
    model = build(ebm_cfg(refiner=REFINER, clip_boxes=False))
    data = batch(model)
    with torch.inference_mode():
        samples = model.predict(data["inputs"], data["data_samples"], rescale=False)
    generator = torch.Generator().manual_seed(0)
    images, annotations = [], []
    for i, sample in enumerate(samples):
        sample.set_metainfo(dict(img_id=i))
        found = sample.pred_instances
        sides = found.bboxes[:, 2:] - found.bboxes[:, :2]
        found = sample.pred_instances = found[(sides > 4).all(1)]
        root = torch.linalg.cholesky(found.box_cov + 1e-8 * torch.eye(4))
        noise = torch.randn(len(found), 4, 1, generator=generator)
        truth = decode_boxes((root @ noise).squeeze(2), found.bboxes)
        images.append(dict(id=i, width=160, height=128))
        for (x1, y1, x2, y2), label in zip(truth.tolist(), found.labels.tolist()):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(dict(id=len(annotations) + 1, image_id=i, category_id=label + 1))
            annotations[-1].update(bbox=box, area=box[2] * box[3], iscrowd=0)
    names = [str(c) for c in range(NUM_CLASSES)]
    categories = [dict(id=c + 1, name=name) for c, name in enumerate(names)]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    metric = METRICS.build(dict(type="ProbabilisticBoxMetric", ann_file=str(path), score_thr=0.0))
    metric.dataset_meta = dict(classes=names)
    metric.process({}, [sample.to_dict() for sample in samples])
    values = metric.evaluate(size=len(samples))
    assert values["probabilistic/matched"] > 0.5 * len(annotations)
    assert math.isfinite(values["probabilistic/nll"])
    assert values["probabilistic/ece"] < 0.15


def test_no_detections():
    cfg = ebm_cfg(refiner=REFINER)
    cfg["detector"].test_cfg.rcnn.score_thr = 1.5
    model = build(cfg)
    for found in predict(model, batch(model)):
        assert found.box_cov.shape == (0, 4, 4)
        assert found.box_std.shape == (0, 4)
        assert found.ess.shape == (0,)


def test_no_parameter_gets_a_gradient():
    model = build(ebm_cfg(refiner=REFINER))
    data = batch(model)
    model.predict(data["inputs"], data["data_samples"])
    assert all(p.grad is None for p in model.parameters())
