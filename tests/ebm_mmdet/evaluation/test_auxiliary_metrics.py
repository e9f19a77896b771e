"""Metrics of scene, depth and normals: closed forms, plain loops, missing and masked truth."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS
from mmdet.structures import DetDataSample
from mmengine.logging import MMLogger
from mmengine.structures import LabelData, PixelData

import ebm_mmdet  # noqa: F401  (registers the metrics)
from ebm_mmdet.evaluation import angles_between

TASKS = {"SceneAccuracy": "scene", "DepthMetric": "depth", "NormalsMetric": "normals"}


def evaluate(name, samples, **options) -> dict[str, float]:
    metric = METRICS.build(dict(type=name, **options))
    for sample in samples:  # batches of one, as dicts, as mmengine's evaluator gives them
        metric.process({}, [sample.to_dict()])
    values = metric.evaluate(size=len(samples))
    prefix = f"{TASKS[name]}/"
    assert all(key.startswith(prefix) for key in values)
    return {key.removeprefix(prefix): value for key, value in values.items()}


def scene_sample(scores, label=None):
    sample = DetDataSample()
    scores = torch.as_tensor(scores)
    sample.pred_scene = LabelData(scores=scores, ranking=scores.argsort(descending=True))
    if label is not None:
        sample.gt_scene = LabelData(label=torch.tensor([label]))
    return sample


def depth_sample(found, true=None):
    sample = DetDataSample()
    sample.pred_depth = PixelData(depth=torch.as_tensor(found, dtype=torch.float32)[None])
    if true is not None:
        sample.gt_depth = PixelData(depth=torch.as_tensor(true, dtype=torch.float32)[None])
    return sample


def normals_sample(found, true=None, mask=None):
    sample = DetDataSample()
    sample.pred_normals = PixelData(normals=torch.as_tensor(found, dtype=torch.float32))
    if true is not None:
        sample.gt_normals = PixelData(normals=torch.as_tensor(true, dtype=torch.float32))
        if mask is not None:
            sample.gt_normals.mask = torch.as_tensor(mask)[None]
    return sample


def random_normals(generator, shape):
    vectors = torch.randn(3, *shape, generator=generator)
    return vectors / vectors.norm(dim=0)


# Scene ----------------------------------------------------------------------------------------


def test_scene_top_k_is_the_share_of_labels_ranked_before_k():
    scores = torch.linspace(1, 0.1, 8)  # ranking 0, 1, ..., 7
    samples = [scene_sample(scores, label) for label in (0, 1, 4, 5, 0)]
    values = evaluate("SceneAccuracy", samples, topk=(1, 2, 5))
    assert values == {"top1": 0.4, "top2": 0.6, "top5": 0.8, "images": 5}


def test_scene_agrees_with_a_loop_over_sorted_scores():
    generator = torch.Generator().manual_seed(0)
    cases = [(torch.rand(27, generator=generator), i % 27) for i in range(60)]
    values = evaluate("SceneAccuracy", [scene_sample(*case) for case in cases])
    for k in (1, 5):
        hits = [int(label in sorted(range(27), key=lambda i: -s[i])[:k]) for s, label in cases]
        assert values[f"top{k}"] == pytest.approx(sum(hits) / 60)


def test_a_scene_label_the_model_does_not_know_is_an_error():
    with pytest.raises(ValueError, match=r"gt_scene.label is 9.*8 scene types"):
        evaluate("SceneAccuracy", [scene_sample(torch.rand(8), 9)])
    with pytest.raises(ValueError, match=r"topk=\(0,\)"):
        evaluate("SceneAccuracy", [], topk=(0,))


def test_a_negative_scene_label_is_an_unknown_scene():
    scores = torch.linspace(1, 0.1, 8)
    samples = [scene_sample(scores, label) for label in (0, -1, 3)]
    del samples[1].pred_scene  # without a truth, a prediction is not missed either
    assert evaluate("SceneAccuracy", samples) == {"top1": 0.5, "top5": 1, "images": 2}
    assert evaluate("SceneAccuracy", [scene_sample(scores, -1)])["images"] == 0


# Depth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", ["pixels", "images"])
def test_depth_of_a_constant_factor_has_a_closed_form(average):
    c = 1.3
    true = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    values = evaluate("DepthMetric", [depth_sample(c * true, true)] * 2, average=average)
    assert values["abs_rel"] == pytest.approx(c - 1, rel=1e-6)
    assert values["log10"] == pytest.approx(math.log10(c), rel=1e-6)
    assert values["rmse"] == pytest.approx((c - 1) * math.sqrt((1 + 4 + 9 + 16) / 4), rel=1e-6)
    assert (values["delta1"], values["delta2"], values["delta3"]) == (0, 1, 1)
    assert values["images"] == 2


def plain_depth(pairs, average):
    """The definitions, pixel by pixel."""
    images = []
    for found, true in pairs:
        image = []
        for d, t in zip(np.ravel(found), np.ravel(true)):
            if not (math.isfinite(t) and 1e-3 <= t <= 10):
                continue
            d = min(max(float(d), 1e-3), 10.0)
            ratio = max(d / t, t / d)
            deltas = [float(ratio < 1.25**j) for j in (1, 2, 3)]
            image.append([abs(d - t) / t, (d - t) ** 2, abs(math.log10(d / t)), *deltas])
        if image:
            images.append(image)
    if average == "pixels":
        images = [[pixel for image in images for pixel in image]]
    means = np.array([np.mean(image, axis=0) for image in images])
    means[:, 1] = np.sqrt(means[:, 1])
    keys = ("abs_rel", "rmse", "log10", "delta1", "delta2", "delta3")
    return dict(zip(keys, means.mean(0)))


@pytest.mark.parametrize("average", ["pixels", "images"])
def test_depth_agrees_with_a_loop_over_pixels(average):
    rng = np.random.default_rng(0)
    pairs = []
    for image in range(4):
        true = rng.uniform(0.5, 9, (5, 7)).astype(np.float32)
        found = (true * rng.lognormal(0, 0.3, true.shape)).astype(np.float32)
        found[0, 0], found[0, 1] = -1, np.inf  # clamped to the range
        true[rng.random(true.shape) < 0.2 * image] = 0  # unknown
        true[1, :4] = np.nan, np.inf, -3, 11
        pairs.append((found, true))
    values = evaluate("DepthMetric", [depth_sample(*pair) for pair in pairs], average=average)
    assert values.pop("images") == 4
    assert values == pytest.approx(plain_depth(pairs, average), rel=1e-6)


def test_depth_truth_is_read_at_the_centres_of_the_prediction():
    true = torch.arange(1.0, 13.0).view(3, 4).repeat_interleave(5, 0).repeat_interleave(3, 1) / 2
    found = torch.arange(1.0, 13.0).view(3, 4) / 2
    values = evaluate("DepthMetric", [depth_sample(found, true)])
    assert values["abs_rel"] == 0
    assert values["delta1"] == 1


@pytest.mark.parametrize(
    ("true", "share"),
    [
        ([1.0] * 50 + [80.0] * 50, "50%"),
        ([1.0] * 50 + [1e-4] * 50, "50%"),  # in kilometres, say
        ([1.0] * 99 + [80.0], None),  # a window
        ([1.0] * 50 + [0.0] * 25 + [math.nan] * 20 + [math.inf, -1.0] + [9.0] * 3, None),
    ],
)
def test_depths_that_the_range_leaves_out_are_reported(true, share, monkeypatch):
    """Otherwise the errors in the open air are those of its nearest ten metres."""
    said = []
    monkeypatch.setattr(MMLogger, "warning", lambda logger, text: said.append(text))
    true = np.array(true)[None]
    values = evaluate("DepthMetric", [depth_sample(np.ones_like(true), true)] * 2)
    assert values["images"] == 2
    assert [f"{share} of the pixels" in text for text in said] == [True] * (share is not None)
    assert not said or "and of DepthTask" in said[0]
    said.clear()
    evaluate("DepthMetric", [depth_sample(np.ones_like(true), true)], depth_range=(1e-5, 100))
    assert not said


# Normals --------------------------------------------------------------------------------------


def test_angles_are_exact_from_zero_to_half_a_turn():
    degrees = np.array([0, 1e-7, 1e-3, 11.25, 45, 90, 135, 179.999, 180])
    t = np.radians(degrees)
    first = np.tile([0.0, 0.0, 2.0], (len(t), 1))
    second = 0.3 * np.stack([np.sin(t), np.zeros_like(t), np.cos(t)], axis=1)
    np.testing.assert_allclose(angles_between(first, second), degrees, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(angles_between(first, 0 * second), 90.0)


def test_normals_turned_by_known_angles_have_a_closed_form():
    degrees = np.array([5.0, 10, 20, 25, 60])
    t = np.radians(degrees)
    true = np.tile([[0.0], [0.0], [1.0]], (1, 5))[:, None]
    found = np.stack([np.sin(t), 0 * t, np.cos(t)])[:, None]
    values = evaluate("NormalsMetric", [normals_sample(found, true, np.ones((1, 5), bool))])
    assert values.pop("images") == 1
    expected = {"mean": 24, "median": 20, "within_11.25": 0.4, "within_22.5": 0.6, "within_30": 0.8}
    assert values == pytest.approx(expected, rel=1e-5)


def test_normals_agree_with_a_loop_and_masked_pixels_do_not_count():
    generator = torch.Generator().manual_seed(1)
    samples, angles = [], []
    for _ in range(3):
        found, true = random_normals(generator, (4, 6)), random_normals(generator, (4, 6))
        true = true + 2 * found  # most are close
        mask = torch.rand(4, 6, generator=generator) < 0.7
        true[:, 0, 0], true[:, 0, 1], mask[0, :2] = 0, math.nan, True  # unknown in spite of it
        samples.append(normals_sample(found, true, mask))
        for i in range(4):
            for j in range(6):
                a, b = found[:, i, j].double(), true[:, i, j].double()
                if mask[i, j] and b.norm() > 0:
                    angles.append(math.degrees(math.acos(a @ b / (a.norm() * b.norm()))))
        found[:, ~mask] = math.nan if len(samples) == 1 else 0.0  # whatever it is
    values = evaluate("NormalsMetric", samples)
    assert values["mean"] == pytest.approx(np.mean(angles), rel=1e-5)
    assert values["median"] == pytest.approx(np.median(angles), rel=1e-5)
    for limit in (11.25, 22.5, 30):
        assert values[f"within_{limit:g}"] == np.mean(np.array(angles) < limit)


def test_normals_without_a_mask_and_of_another_size():
    true = torch.zeros(3, 8, 8)
    true[2] = 1
    found = torch.zeros(3, 4, 4)
    found[0] = 1
    values = evaluate("NormalsMetric", [normals_sample(found, true)])
    assert values["mean"] == values["median"] == 90
    mask = np.zeros((8, 8), bool)
    mask[4:, :] = True
    found[:, 2:] = torch.tensor([0.0, 0, 1])[:, None, None]
    assert evaluate("NormalsMetric", [normals_sample(found, true, mask)])["mean"] == 0


def with_stride(sample, stride=8):
    for task in ("depth", "normals"):
        if f"gt_{task}" in sample:
            sample.get(f"gt_{task}").set_metainfo({"stride": stride})
    return sample


@pytest.mark.parametrize(
    ("true", "found", "fits"),
    [
        ((13, 5), (13, 5), True),
        ((12, 4), (6, 2), True),
        ((12, 4), (24, 12), True),
        ((13, 5), (12, 5), False),  # an image of 100 rows, padded to 104: the last row is cut off
        ((13, 4), (13, 5), False),
        ((13, 5), (100, 35), False),
    ],
)
def test_a_truth_with_a_stride_has_to_fit_the_prediction(true, found, fits):
    """Without a stride it covers the image, and is read at the centres of the prediction."""
    normals = [torch.ones(3, *shape) / 3**0.5 for shape in (found, true)]
    cases = {
        "DepthMetric": lambda: depth_sample(torch.ones(found), torch.ones(true)),
        "NormalsMetric": lambda: normals_sample(*normals, torch.ones(true, dtype=torch.bool)),
    }
    for name, make in cases.items():
        assert evaluate(name, [make()])[PERFECT[name]] == 1
        if fits:
            assert evaluate(name, [with_stride(make())])[PERFECT[name]] == 1
        else:
            message = r"AuxiliaryTargets\(stride=8\).*Leave AuxiliaryTargets out"
            with pytest.raises(ValueError, match=message):
                evaluate(name, [with_stride(make())])


# What all of them do with missing content --------------------------------------------------------

UNIT = np.tile([[0.0], [0.0], [1.0]], (1, 4))[:, None]
COMPLETE = {
    "SceneAccuracy": lambda: scene_sample([0.1, 0.9], 1),
    "DepthMetric": lambda: depth_sample(np.ones((2, 2)), np.ones((2, 2))),
    "NormalsMetric": lambda: normals_sample(UNIT, UNIT, np.ones((1, 4), bool)),
}
PERFECT = {"SceneAccuracy": "top1", "DepthMetric": "delta1", "NormalsMetric": "within_30"}


@pytest.mark.parametrize("name", TASKS)
def test_images_without_the_truth_are_left_out(name):
    missing = COMPLETE[name]()
    delattr(missing, f"gt_{TASKS[name]}")
    values = evaluate(name, [missing, COMPLETE[name](), missing])
    assert values["images"] == 1
    assert values[PERFECT[name]] == 1


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("absent", ["gt", "pred"])
def test_nothing_to_evaluate_is_nan_with_a_warning(name, absent, monkeypatch):
    warnings = []
    monkeypatch.setattr(MMLogger, "warning", lambda logger, text: warnings.append(text))
    sample = COMPLETE[name]()
    delattr(sample, f"{absent}_{TASKS[name]}")
    values = evaluate(name, [sample] * 2)
    (warning,) = warnings
    assert f"{absent}_{TASKS[name]}" in warning
    assert values.pop("images") == 0
    assert all(math.isnan(value) for value in values.values())


@pytest.mark.parametrize("name", TASKS)
def test_a_prediction_for_some_images_only_is_an_error(name):
    sample = COMPLETE[name]()
    delattr(sample, f"pred_{TASKS[name]}")
    with pytest.raises(ValueError, match=f"pred_{TASKS[name]} is missing in 1 of 2 images"):
        evaluate(name, [sample, COMPLETE[name]()])


def test_empty_masks_do_not_count_and_alone_give_nan():
    empty_normals = normals_sample(UNIT, UNIT, np.zeros((1, 4), bool))
    empty_depth = depth_sample(np.ones((2, 2)), np.zeros((2, 2)))
    for name, empty in (("NormalsMetric", empty_normals), ("DepthMetric", empty_depth)):
        assert evaluate(name, [empty, COMPLETE[name]()])["images"] == 1
        values = evaluate(name, [empty])
        assert values.pop("images") == 0
        assert all(math.isnan(value) for value in values.values())


def test_a_prediction_that_is_not_finite_is_not_hidden():
    bad = UNIT.copy()
    bad[0, 0, 0] = math.nan
    for name, sample in (
        ("DepthMetric", depth_sample([[math.nan, 1]], [[1, 1]])),
        ("NormalsMetric", normals_sample(bad, UNIT)),
    ):
        values = evaluate(name, [sample, COMPLETE[name]()])
        assert values.pop("images") == 0
        assert all(math.isnan(value) for value in values.values())


def some_samples(count):
    generator = torch.Generator().manual_seed(2)
    samples = []
    for i in range(count):
        true = torch.rand(3, 4, generator=generator) * 5 + 0.1
        sample = depth_sample(true * (1 + 0.1 * i), None if i in (0, 3) else true)
        found = random_normals(generator, (3, 4))
        sample.pred_normals = PixelData(normals=found)
        if i != 1:
            sample.gt_normals = PixelData(normals=random_normals(generator, (3, 4)))
        samples.append(sample)
    return samples


@pytest.mark.parametrize("name", ["DepthMetric", "NormalsMetric"])
def test_entries_of_two_processes_are_those_of_one(name):
    """As mmengine collects them: pickled, in turns, and cut to the size of the set."""
    samples, parts = some_samples(5), []
    for indices in ([0, 2, 4], [1, 3, 0]):  # its sampler repeats the first image at the end
        metric = METRICS.build(dict(type=name))
        for index in indices:
            metric.process({}, [samples[index].to_dict()])
        assert len(metric.results) == len(indices)
        parts.append(pickle.loads(pickle.dumps(metric.results)))
    together = [entry for pair in zip(*parts) for entry in pair][:5]
    values = {f"{TASKS[name]}/{key}": v for key, v in evaluate(name, samples).items()}
    found = METRICS.build(dict(type=name)).compute_metrics(together)
    assert {f"{TASKS[name]}/{key}": v for key, v in found.items()} == pytest.approx(values)
