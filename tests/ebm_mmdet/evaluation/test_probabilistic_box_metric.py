"""ProbabilisticBoxMetric: matched detections, units, empty inputs, and its picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS

import ebm_mmdet  # noqa: F401  (registers the metric)
from ebm_mmdet.datasets import coco_check
from ebm_mmdet.models import decode_boxes

STD = torch.tensor([0.02, 0.03, 0.05, 0.06], dtype=torch.float64)


def write_annotations(tmp_path, boxes_per_image) -> str:
    """COCO file of one class; boxes (x1, y1, x2, y2)."""
    annotations = []
    for image_id, boxes in enumerate(boxes_per_image, start=1):
        for x1, y1, x2, y2 in np.asarray(boxes, float).reshape(-1, 4).tolist():
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                dict(id=len(annotations) + 1, image_id=image_id, category_id=7, bbox=box)
            )
            annotations[-1].update(area=box[2] * box[3], iscrowd=0)
    images = [dict(id=i + 1, width=640, height=480) for i in range(len(boxes_per_image))]
    path = tmp_path / "truth.json"
    path.write_text(
        json.dumps(
            dict(images=images, annotations=annotations, categories=[dict(id=7, name="cat")])
        )
    )
    return str(path)


def sample(image_id, boxes, scores=None, **fields) -> dict:
    boxes = torch.as_tensor(boxes).reshape(-1, 4)
    n = len(boxes)
    scores = torch.full((n,), 0.9) if scores is None else torch.tensor(scores)
    labels = torch.zeros(n, dtype=torch.long)
    found = dict(bboxes=boxes, scores=scores, labels=labels, **fields)
    return dict(img_id=image_id, pred_instances=found)


def evaluate(ann_file, samples, **options) -> dict[str, float]:
    metric = METRICS.build(dict(type="ProbabilisticBoxMetric", ann_file=ann_file, **options))
    metric.dataset_meta = dict(classes=("cat",))
    metric.process({}, samples)
    values = metric.evaluate(size=len(samples))
    assert all(key.startswith("probabilistic/") for key in values)
    return {key.removeprefix("probabilistic/"): value for key, value in values.items()}


def gaussian_case(tmp_path, images=40, per_image=25, scale=1.0, seed=0):
    """Detections on a grid, and objects drawn from N(detection, (scale STD)²)."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.meshgrid(torch.arange(5) * 100.0, torch.arange(5) * 90.0, indexing="ij")
    corner = torch.stack([x.flatten(), y.flatten()], 1).double()
    boxes = torch.cat([corner, corner + torch.tensor([80.0, 50.0])], 1)
    truths, samples = [], []
    for image_id in range(1, images + 1):
        noise = torch.randn(per_image, 4, generator=generator, dtype=torch.float64)
        truths.append(decode_boxes(scale * STD * noise, boxes))
        samples.append(sample(image_id, boxes, box_std=STD.expand(per_image, 4)))
    return write_annotations(tmp_path, truths), samples


def test_a_calibrated_prediction_has_the_entropy_as_likelihood(tmp_path):
    ann_file, samples = gaussian_case(tmp_path)
    values = evaluate(ann_file, samples)
    assert values["matched"] == 1000
    assert values["floored"] == 0
    entropy = 4 * 0.5 * math.log(2 * math.pi * math.e) + STD.log().sum().item()
    error = 5 * math.sqrt(4 * 0.5 / 1000)  # five standard errors of ½ Σ z²
    assert values["nll"] == pytest.approx(entropy, abs=error)
    # |det J| = w² h² from encoded coordinates to sides.
    assert values["nll_px"] == pytest.approx(entropy + 2 * math.log(80 * 50), abs=error + 0.1)
    assert values["ece"] < 0.025
    sides = [values[f"ece_{side}"] for side in ("x1", "y1", "x2", "y2")]
    assert values["ece"] == pytest.approx(np.mean(sides))
    # The score of its own distribution: half the mean distance of two draws.
    pairs = torch.randn(200000, 4, generator=torch.Generator().manual_seed(1)).double() * STD
    expected = pairs.norm(dim=1).mean().item() / math.sqrt(2)
    assert values["energy_score"] == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("scale", [0.4, 2.5])
def test_too_much_and_too_little_confidence_are_seen(tmp_path, scale):
    right = evaluate(*gaussian_case(tmp_path))
    wrong = evaluate(*gaussian_case(tmp_path, scale=scale))
    assert wrong["ece"] > right["ece"] + 0.15
    if scale > 1:
        assert wrong["nll"] > right["nll"] + 1


def test_box_cov_counts_before_box_std(tmp_path):
    ann_file, samples = gaussian_case(tmp_path, images=4)
    expected = evaluate(ann_file, samples)
    for s in samples:
        s["pred_instances"]["box_cov"] = torch.diag(STD**2).expand(25, 4, 4)
        s["pred_instances"]["box_std"] = 100 * STD.expand(25, 4)
    assert evaluate(ann_file, samples) == pytest.approx(expected)


def test_only_matched_detections_count(tmp_path):
    box, std = [10.0, 10, 110, 60], STD.expand(4, 4)
    ann_file = write_annotations(tmp_path, [[box]])
    boxes = [box, [12.0, 10, 110, 60], [300.0, 300, 320, 330], [10.0, 10, 110, 61]]
    values = evaluate(ann_file, [sample(1, boxes, [0.9, 0.8, 0.9, 0.2], box_std=std)])
    assert values["matched"] == 1
    at_mean = 2 * math.log(2 * math.pi) + STD.log().sum().item()
    assert values["nll"] == pytest.approx(at_mean)


def test_the_uncertainty_follows_the_size_of_the_box(tmp_path):
    """Twice the box with the same relative error: encoded scores stay, pixel scores double."""
    results = []
    for size in (1.0, 2.0):
        ann_file = write_annotations(tmp_path, [[[0.0, 0, 80 * size, 50 * size]]])
        box = torch.tensor([[2.0, 1, 84, 50]], dtype=torch.float64) * size
        results.append(evaluate(ann_file, [sample(1, box, box_std=STD[None])]))
    small, large = results
    assert large["nll"] == pytest.approx(small["nll"], rel=1e-5)
    assert large["energy_score"] == pytest.approx(small["energy_score"], rel=1e-5)
    assert large["nll_px"] == pytest.approx(small["nll_px"] + 4 * math.log(2), rel=1e-5)
    assert large["energy_score_px"] == pytest.approx(2 * small["energy_score_px"], rel=1e-5)
    assert large["ece"] == pytest.approx(small["ece"])


def test_a_box_without_extent_of_uncertainty_is_floored(tmp_path):
    ann_file = write_annotations(tmp_path, [[[0.0, 0, 80, 50]]])
    one = sample(1, [[0.0, 0, 80, 50]], box_std=torch.zeros(1, 4))
    values = evaluate(ann_file, [one], min_std=0.01)
    assert values["floored"] == 1
    assert values["nll"] == pytest.approx(2 * math.log(2 * math.pi) + 4 * math.log(0.01))


@pytest.mark.parametrize("fields", [{}, {"box_std": torch.zeros(0, 4)}])
def test_no_detection_is_no_number(tmp_path, fields):
    ann_file = write_annotations(tmp_path, [[[0.0, 0, 80, 50]], []])
    values = evaluate(ann_file, [sample(1, [], **fields), sample(2, [], **fields)])
    assert values.pop("matched") == 0
    assert all(math.isnan(value) for value in values.values())


def test_another_order_of_the_classes_is_reported_once(tmp_path, monkeypatch):
    """And not once for each batch, of which a test has thousands."""
    path = Path(write_annotations(tmp_path, [[[0, 0, 9, 9]]] * 3))
    content = json.loads(path.read_text())
    content["categories"].append(dict(id=3, name="dog"))
    path.write_text(json.dumps(content))
    metric = METRICS.build(dict(type="ProbabilisticBoxMetric", ann_file=str(path)))
    metric.dataset_meta = dict(classes=("dog", "cat"))
    said = []
    monkeypatch.setattr(coco_check, "print_log", lambda text, *_: said.append(text))
    for image_id in (1, 2, 3):
        metric.process({}, [sample(image_id, [[0, 0, 9, 9]], box_std=STD[None])])
    assert len(said) == 1
    assert metric.compute_metrics(metric.results)["matched"] == 3


def test_messages(tmp_path):
    ann_file = write_annotations(tmp_path, [[[0.0, 0, 80, 50]]])
    with pytest.raises(ValueError, match="neither box_cov .* ImportanceMeanRefiner"):
        evaluate(ann_file, [sample(1, [[0.0, 0, 80, 50]])])
    with pytest.raises(ValueError, match="image 1 is not finite"):
        evaluate(ann_file, [sample(1, [[0.0, 0, 80, 50]], box_std=torch.full((1, 4), torch.nan))])
    with pytest.raises(ValueError, match="min_std=0"):
        evaluate(ann_file, [], min_std=0)


def test_pictures_are_numbered_and_never_overwritten(tmp_path):
    """As in every validation of a run, in a resumed one, and in a test after training."""
    ann_file, samples = gaussian_case(tmp_path, images=4, scale=1.5)
    folder = tmp_path / "my figures"
    path = folder / "reliability.v1.png"
    evaluate(ann_file, samples, reliability_plot=str(path))
    first = path.read_bytes()
    (folder / "reliability.v1_3.png").symlink_to(tmp_path / "elsewhere.png")
    for _ in range(2):
        evaluate(ann_file, samples, reliability_plot=str(path))
    expected = {f"reliability.v1{number}.png" for number in ("", "_2", "_3", "_4")}
    assert {p.name for p in folder.iterdir()} == expected
    assert path.read_bytes() == first
    assert not (tmp_path / "elsewhere.png").exists()
