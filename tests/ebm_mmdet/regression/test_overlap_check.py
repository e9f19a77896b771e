"""Whoever changes one of two splits alone is told so."""

import numpy as np
import pytest
from mmdet.registry import HOOKS
from mmengine.dataset import RepeatDataset

from ebm_mmdet.regression import (
    GeneratedRegressionDataset,
    RegressionArrayDataset,
    RegressionDataset,
    overlap_check,
)
from tests.ebm_mmdet.regression.models import build_regressor
from tests.ebm_mmdet.regression.test_hooks import SimpleNamespace, runner_with

TARGET = {"target": {"ranges": ((1, 40),)}}


def table(folder, **split):
    lines = ["img_path,target,group"]
    for i in range(20):
        (folder / f"im {i}.png").write_bytes(b"x")
        # Two people have labelled each image, and one of them writes its path in another way.
        lines += [f"im {i}.png,{i + 1},g{i // 2}", f"./im {i}.png,{i + 2},g{i // 2}"]
    (folder / "t.csv").write_text("\n".join(lines))
    given = split or None
    return RegressionDataset("t.csv", metainfo=TARGET, data_root=str(folder), split=given)


def arrays(folder, **split):
    images, labels = np.zeros((20, 4, 4, 3), np.uint8), np.arange(1.0, 21)
    np.savez(folder / "a.npz", images=images, labels=labels)
    given = split or None
    return RegressionArrayDataset("a.npz", metainfo=TARGET, data_root=str(folder), split=given)


HALVES = {"parts": {"train": 0.5, "test": 0.5}}
CASES = {
    "one division": ({**HALVES, "part": "train"}, {**HALVES, "part": "test"}, False),
    "another seed": ({**HALVES, "part": "train", "seed": 1}, {**HALVES, "part": "test"}, True),
    "other shares": ({"part": "train"}, {**HALVES, "part": "test"}, True),
    "everything": ({}, {"part": "test"}, True),
}


@pytest.mark.parametrize("make", [table, arrays])
@pytest.mark.parametrize(("train", "test", "warns"), CASES.values(), ids=CASES)
def test_images_on_both_sides_are_reported(tmp_path, monkeypatch, make, train, test, warns):
    said = []
    monkeypatch.setattr(overlap_check, "print_log", lambda text, *_, **__: said.append(text))
    training = RepeatDataset(make(tmp_path, **train), times=2)
    loader = SimpleNamespace(dataset=make(tmp_path, **test))
    runner = runner_with(
        build_regressor("direct"), dataset=training, val_loop=SimpleNamespace(dataloader=loader)
    )
    HOOKS.build({"type": "FitTargetCodecHook"}).before_train(runner)
    assert len(said) == warns
    if warns:
        both = {training.dataset.get_data_info(i)["img_path"] for i in range(len(training.dataset))}
        both &= {loader.dataset.get_data_info(i)["img_path"] for i in range(len(loader.dataset))}
        assert said[0].split()[0] == str(len({path.replace("/./", "/") for path in both}))


GENERATED = {
    "the recipes'": ({"seed": 0}, {"seed": 1}, 0),
    "one seed": ({"seed": 1}, {"seed": 1, "num_images": 3}, 3),
    "another variant": ({"seed": 1, "variant": "c"}, {"seed": 1, "variant": "a"}, 0),
}


@pytest.mark.parametrize(("train", "test", "both"), GENERATED.values(), ids=GENERATED)
def test_generated_sets_of_one_seed_are_reported(monkeypatch, train, test, both):
    said = []
    monkeypatch.setattr(overlap_check, "print_log", lambda text, *_, **__: said.append(text))
    sets = [GeneratedRegressionDataset(**{"num_images": 9, **each}) for each in (train, test)]
    overlap_check.report_overlap(*sets)
    assert len(said) == (both > 0)
    assert not said or f"{both} of the 3 images" in said[0]
    assert not said or "different ones" in said[0]


def test_nothing_is_said_of_other_data_sets():
    overlap_check.report_overlap(SimpleNamespace(), SimpleNamespace())
