"""The gain of a fit beside that of a recipe: the same model gains the same, others are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config

from ebm_mmdet.apis import load_detector, write_energy_config
from ebm_mmdet.apis.fitting.image_set import ImageSet
from ebm_mmdet.energy import evaluate_only
from ebm_mmdet.files import read_json, write_json
from lab.benchmarks import fit_gain
from lab.benchmarks.fit_gain import bootstrap_gains, main, measure_gains
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project


class Run:
    """Metrics that are the weighted mean of a value per image."""

    def __init__(self, values):
        self.values = np.array(values)

    def metrics(self, weights):
        return np.full(5, (weights * self.values).sum() / weights.sum())


def test_gains_are_paired():
    before, shift = np.array([0.1, 0.9, 0.4]), 0.05
    weights = np.array([[3, 0, 0], [0, 1, 2], [1, 1, 1]])
    runs = [Run(before), Run(before + shift), Run(before + np.array([0.3, 0, 0]))]
    same, first = bootstrap_gains(runs, weights)
    assert same.shape == (4, 5)
    np.testing.assert_allclose(same, 5.0)  # whatever the images
    np.testing.assert_allclose(first[:, 0], [10, 30, 0, 10])


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """What a fit leaves, as far as it is read here, of a head that is not trained."""
    monkeypatch.chdir(make_project(tmp_path, ONE_STAGE))
    config = write_energy_config("my_detector.py", "epoch_12.pth")
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    model.detector.load_state_dict(torch.load("epoch_12.pth", weights_only=True)["state_dict"])
    torch.nn.init.normal_(model.energy_head.fc_energy.weight)
    torch.save(dict(state_dict=model.state_dict()), "fitted.pth")
    write_json(tmp_path / "fit" / "result.json", dict(config=str(config), checkpoint="fitted.pth"))
    return config


def test_the_same_model_gains_the_same(fitted, tmp_path, monkeypatch, capsys):
    def beside(model, images):
        """The objects, the detector's a little beside their places; nothing is run."""
        wrong = 3.0 if model.refiner is evaluate_only else 1.0
        truth = images.coco(range(len(images)), 3).dataset["annotations"]
        shifted = [(each, [each["bbox"][0] + wrong, *each["bbox"][1:]]) for each in truth]
        return [{**each, "bbox": box, "score": 0.9} for each, box in shifted], 0.01

    monkeypatch.setattr(fit_gain, "predict", beside)
    main(["fit", str(fitted), "fitted.pth", "--resamples", "5", "--out", "gains.json"])
    report = read_json(tmp_path / "gains.json")
    detector, recipe, fit = report["rows"]
    assert (detector["method"], fit["method"]) == ("detector", "fit")
    assert "change_AP" not in detector
    gain, error = recipe["change_AP"], recipe["error_AP"]
    assert gain > 5
    assert (fit["change_AP"], fit["error_AP"]) == (gain, error)
    assert fit["AP"] == pytest.approx(detector["AP"] + gain, abs=0.011)
    assert report["beyond"]["AP"] == pytest.approx([0.1 * gain, 0.1 * error], abs=0.011)
    assert f"({gain:+.2f} ± {error:.2f})" in capsys.readouterr().out


def test_every_image_is_predicted(fitted):
    """Boxes of a real model, in the file's pixels, at most five to an image."""
    model = load_detector(fitted, "fitted.pth")
    dataset = DATASETS.build(model.cfg.val_dataloader.dataset)
    records, seconds = fit_gain.predict(model, ImageSet(dataset, range(2)))
    assert {each["image_id"] for each in records} == {0, 1}
    assert len(records) <= 10
    assert seconds > 0


def test_another_detector_is_refused(fitted, tmp_path):
    state = torch.load("fitted.pth", weights_only=True)["state_dict"]
    name = next(key for key in state if key.startswith("detector.") and key.endswith("weight"))
    state[name] = state[name] + 1
    torch.save(dict(state_dict=state), "other.pth")
    with pytest.raises(ValueError, match="different detectors"):
        measure_gains(tmp_path / "fit", fitted, "other.pth", 2)
    with pytest.raises(ValueError, match="not finished"):
        measure_gains(tmp_path, fitted, "fitted.pth", 2)
