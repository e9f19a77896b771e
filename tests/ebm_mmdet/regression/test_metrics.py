"""The two metrics of image regression, on data samples as dicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS

import ebm_mmdet.regression  # noqa: F401  registers them


def sample(target=None, predicted=None, **fields) -> dict:
    found = dict(img_path="folder with blanks/a.png", sample_idx=3, **fields)
    for key, value in (("gt_target", target), ("pred_target", predicted)):
        if value is not None:
            found[key] = torch.tensor(np.atleast_1d(value), dtype=torch.float32)
    return found


def evaluate(kind: str, samples: list[dict], meta: dict | None = None, **settings) -> dict:
    metric = METRICS.build(dict(type=kind, **settings))
    metric.dataset_meta = None if meta is None else {"target": meta}
    for one in samples:
        metric.process({}, [one])
    return metric.evaluate(len(samples))


def errors(samples, meta=None, **settings):
    return evaluate("RegressionMetric", samples, meta, **settings)


def density(samples, meta=None, **settings):
    return evaluate("ProbabilisticRegressionMetric", samples, meta, **settings)


def test_errors_of_one_coordinate_by_hand():
    samples = [sample(0.0, 1.0), sample(4.0, 2.0), sample(20.0, 26.0), sample(None, 5.0)]
    found = errors(samples, cs=(1, 5), bins=(0, 5, 50, 100))
    assert found == {
        "regression/mae": 3.0,
        "regression/rmse": pytest.approx(math.sqrt(41 / 3)),
        "regression/r2": pytest.approx(1 - 41 / 224),
        "regression/cs_1": pytest.approx(1 / 3),
        "regression/cs_5": pytest.approx(2 / 3),
        "regression/mae_0_5": 1.5,
        "regression/mae_5_50": 6.0,
        "regression/mae_50_100": pytest.approx(math.nan, nan_ok=True),
        "regression/mae_100_inf": pytest.approx(math.nan, nan_ok=True),
        "regression/labelled": 3,
    }


def test_several_coordinates_have_names():
    meta = dict(names=("yaw", "pitch"), periods=(None, None))
    found = errors([sample([0.0, 0.0], [1.0, 3.0]), sample([2.0, 1.0], [3.0, 4.0])], meta)
    assert found["regression/mae"] == 2.0
    assert (found["regression/mae_yaw"], found["regression/mae_pitch"]) == (1.0, 3.0)


def test_errors_on_a_circle_are_wrapped():
    meta = dict(names=("angle",), periods=(360.0,))
    samples = [sample(179.0, -179.0), sample(-178.0, 178.0)]
    found = errors(samples, meta)
    assert found["regression/mae"] == pytest.approx(3.0)
    assert found["regression/r2"] == pytest.approx(1 - (4 + 16) / (2 * 1.5**2), abs=1e-4)
    assert errors(samples)["regression/mae"] > 350


def test_r2_of_equal_labels_is_undefined():
    assert math.isnan(errors([sample(2.0, 1.0)])["regression/r2"])


def test_a_prediction_off_both_branches_is_counted():
    modes = dict(oracle_means=np.array([[-10.0], [10.0]]), oracle_stds=np.ones((2, 1)))
    groups = ("fork", "fork", "plain", "plain")
    samples = [
        sample(10.0, y, group=group, **modes) for y, group in zip((-12.9, 0.0, 7.5, 9.5), groups)
    ]
    found = errors([*samples, sample(1.0, 1.0)], groups=("fork", "none"))
    assert found["regression/off_branch"] == 0.25
    assert found["regression/off_branch_fork"] == 0.5
    assert found["regression/mae_fork"] == pytest.approx((22.9 + 10) / 2)
    assert math.isnan(found["regression/mae_none"])
    assert "regression/mae_plain" not in found


def test_groups_have_their_own_likelihood():
    samples = [
        sample(0.0, 0.0, group=g, gt_log_prob=torch.tensor(v), oracle_log_prob=v + 1)
        for g, v in (("fork", -1.0), ("fork", -3.0), ("plain", -8.0))
    ]
    found = density(samples, groups=("fork",))
    assert (found["density/nll_fork"], found["density/nll_oracle_fork"]) == (2.0, 1.0)
    assert found["density/nll"] == 4.0
    assert "density/nll_plain" not in found


@pytest.mark.parametrize("wanted", ["2", 2])
@pytest.mark.parametrize("group", ["2", 2])
def test_a_group_is_known_by_its_name(wanted, group):
    """Tables give names, and whoever has numbered the groups writes numbers into the config."""
    one = sample(0.0, 3.0, group=group, gt_log_prob=torch.tensor(-1.0))
    samples = [one, sample(0.0, 1.0, group="1", gt_log_prob=torch.tensor(-7.0))]
    assert errors(samples, groups=(wanted,))["regression/mae_2"] == 3.0
    assert density(samples, groups=(wanted,))["density/nll_2"] == 1.0


def test_without_labels_nothing_is_measured():
    assert errors([sample(None, 1.0)]) == {"regression/labelled": 0}
    assert density([sample(None, 1.0)]) == {"density/labelled": 0}
    assert density([]) == {"density/labelled": 0}


@pytest.mark.parametrize("kind", ["RegressionMetric", "ProbabilisticRegressionMetric"])
def test_entries_of_two_processes_are_those_of_one(kind):
    """As mmengine collects them: in turns, and cut to the size of the set."""
    labels = (None, 4.0, None, 20.0, 7.0)
    samples = [
        sample(label, number, ess=torch.tensor(9.0 + number)) for number, label in enumerate(labels)
    ]
    parts = []
    for indices in ([0, 2, 4], [1, 3, 0]):  # its sampler repeats the first image at the end
        metric = METRICS.build(dict(type=kind))
        for index in indices:
            metric.process({}, [samples[index]])
        assert len(metric.results) == len(indices)
        parts.append(metric.results)
    together = [entry for pair in zip(*parts) for entry in pair][:5]
    found = METRICS.build(dict(type=kind)).compute_metrics(together)
    whole = {key.partition("/")[2]: value for key, value in evaluate(kind, samples).items()}
    assert found == pytest.approx(whole)
    assert found["labelled"] == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_prediction_that_is_not_finite_stops_with_its_image(bad):
    with pytest.raises(ValueError, match=r"folder with blanks/a.png.*diverged"):
        errors([sample(1.0, bad)])
    with pytest.raises(ValueError, match="gt_log_prob of image"):
        density([sample(1.0, 1.0, gt_log_prob=torch.tensor(bad))])


def test_a_missing_prediction_is_named():
    with pytest.raises(ValueError, match="has no pred_target"):
        errors([sample(1.0)])


@pytest.mark.parametrize("settings", [dict(bins=(3, 1)), dict(bins=(-1, 1)), dict(cs=(-1,))])
def test_arguments_are_checked(settings):
    with pytest.raises(ValueError, match="expected"):
        errors([], **settings)


def gaussian_samples(n: int, dim: int = 1, factor: float = 1.0) -> list[dict]:
    """Predictions N(μ, (factor σ)²) of labels N(μ, σ²), with all that a model may predict."""
    rng, levels = np.random.default_rng(0), (0.5, 0.9)
    z = np.quantile(rng.normal(size=100_000), [0.25, 0.05, 0.75, 0.95]).reshape(2, 2).T
    result = []
    for _ in range(n):
        mean, std = 10 * rng.normal(size=dim), rng.uniform(1, 3)
        target = mean + std * rng.normal(size=dim)
        drawn = mean + factor * std * rng.normal(size=(300, dim))

        def log_prob(s, x=target, m=mean):
            return float((-0.5 * ((x - m) / s) ** 2 - math.log(s * math.sqrt(2 * math.pi))).sum())

        result.append(
            sample(
                target,
                mean,
                pred_samples=torch.tensor(drawn),
                pred_interval=torch.tensor(mean + factor * std * z[..., None]),
                interval_levels=levels,
                gt_log_prob=torch.tensor(log_prob(factor * std)),
                oracle_log_prob=log_prob(std),
                ess=torch.tensor(rng.choice([20.0, 200.0])),
            )
        )
    return result


def test_a_calibrated_gaussian():
    found = density(gaussian_samples(2000))
    assert found["density/nll"] == pytest.approx(found["density/nll_oracle"], abs=1e-6)
    assert found["density/nll_gap"] == pytest.approx(0, abs=1e-6)
    assert found["density/coverage_50"] == pytest.approx(0.5, abs=0.03)
    assert found["density/coverage_90"] == pytest.approx(0.9, abs=0.02)
    assert found["density/width_90"] == pytest.approx(2 * 1.645 * 2, rel=0.03)
    assert found["density/crps"] == pytest.approx(0.5642 * 2, rel=0.05)  # σ / √π
    assert found["density/qce"] < 0.02
    assert found["density/ess"] == pytest.approx(110, rel=0.05)
    assert found["density/ess_low"] == pytest.approx(0.5, abs=0.05)
    assert found["density/labelled"] == 2000


def test_an_overconfident_gaussian_is_worse_in_every_score():
    good, bad = density(gaussian_samples(800)), density(gaussian_samples(800, factor=0.4))
    assert bad["density/nll_gap"] > 0.5
    assert bad["density/crps"] > good["density/crps"]
    assert bad["density/coverage_90"] < 0.6
    assert bad["density/qce"] > 0.1


def test_several_coordinates_have_an_energy_score():
    found = density(gaussian_samples(50, dim=3), dict(periods=(None, None, None)))
    assert found["density/energy_score"] > 0
    assert "density/crps" not in found


def test_a_direct_regressor_has_no_density():
    assert density([sample(1.0, 2.0)]) == {"density/labelled": 1}


def test_a_label_that_the_model_excludes_has_an_infinite_nll():
    found = density([sample(1.0, 1.0, gt_log_prob=torch.tensor(-math.inf))])
    assert found["density/nll"] == math.inf


def test_the_mass_of_integer_labels():
    samples = [sample(1.0, 1.0, gt_log_mass=torch.tensor(math.log(p))) for p in (0.5, 0.125)]
    assert density(samples)["density/nll_mass"] == pytest.approx(2 * math.log(2))


def test_unlabelled_images_count_for_the_effective_sample_size_only():
    samples = [sample(1.0, 1.0, ess=torch.tensor(10.0)), sample(None, 1.0, ess=torch.tensor(50.0))]
    found = density(samples)
    assert found == {"density/ess": 30.0, "density/ess_low": 0.5, "density/labelled": 1}
