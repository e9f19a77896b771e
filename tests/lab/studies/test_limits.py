"""How many detections a study counts, and its warnings where images have more objects."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import pytest

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from mmengine.config import Config
from pycocotools.coco import COCO

from lab.studies import Row, StudySettings, detectors, recipes, study
from lab.studies.limits import detections_per_image, limit_warnings, wrapper_and_detector

HIGH = dict(type="HighIoUCocoMetric", max_dets=300)
OTHER = dict(type="ProbabilisticBoxMetric")
DETECTOR = dict(type="FCOS", test_cfg=dict(max_per_img=100))


@pytest.mark.parametrize(
    ("evaluator", "expected"),
    [
        (HIGH, 300),
        ([HIGH, OTHER], 300),
        ([OTHER, HIGH], 300),
        ((OTHER, dict(HIGH, max_dets=120), HIGH), 300),
        (dict(type="Evaluator", metrics=[OTHER, HIGH]), 300),
        ([OTHER, dict(type="HighIoUCocoMetric", max_dets=None)], 100),
        (OTHER, 100),
        ([], 100),
        (None, 100),
    ],
)
def test_detections_that_any_metric_counts(evaluator, expected):
    assert detections_per_image(Config(dict(val_evaluator=evaluator))) == expected
    assert detections_per_image(Config({})) == 100


def crowded(objects: int) -> COCO:
    truth = COCO()
    annotations = [dict(id=i + 1, image_id=1, category_id=1) for i in range(objects)]
    truth.dataset = dict(images=[dict(id=1)], annotations=annotations, categories=[dict(id=1)])
    truth.createIndex()
    return truth


def warned(objects: int, max_dets: int, **model) -> list[str]:
    cfg = Config(dict(model=dict(type="EBMDetector", detector=DETECTOR, **model)))
    return limit_warnings(wrapper_and_detector(cfg), crowded(objects), [1], max_dets)


def test_limits_of_the_metric_and_of_what_is_kept_are_named():
    assert not warned(100, 100)
    counted, kept = warned(101, 100)
    assert "max_dets=101" in counted
    assert "at most 100 boxes" in kept
    assert "raise model.detector.test_cfg.max_per_img" in kept
    (line,) = warned(101, 300)
    assert line == kept


def test_candidates_and_the_detectors_own_boxes_are_rows_of_one_study():
    candidates = dict(type="EnergyGuidedNMS", max_per_img=200)
    first, second = warned(201, 300, candidates=candidates)
    assert "raise model.candidates.max_per_img" in first
    assert "raise model.detector.test_cfg.max_per_img" in second
    (line,) = warned(150, 300, candidates=candidates)
    assert "raise model.detector.test_cfg.max_per_img" in line


def test_rows_of_several_detectors_are_told_apart():
    models = [("A: ", "model", DETECTOR), ("B: ", "model", dict(type="YOLOX"))]
    (line,) = limit_warnings(models, crowded(150), [1], 300)
    assert line.startswith("A: The detector keeps at most 100 boxes")


class Stop(Exception):
    """The study has come to its long work."""


def stop(*args, **kwargs):
    raise Stop


class Images:
    """A data set of one image."""

    ann_file, cat_ids = "val.json", (1,)
    metainfo: ClassVar = dict(classes=("nucleus",))


class Truth(COCO):
    """150 objects of one class in one image."""

    def __init__(self, ann_file: str) -> None:
        super().__init__()
        self.__dict__.update(crowded(150).__dict__)

    def get_cat_ids(self, cat_names) -> list[int]:
        return [1]


@pytest.mark.parametrize("kind", ["refinement", "objectives", "detectors"])
def test_every_study_says_so_before_its_long_work(kind, tmp_path, monkeypatch):
    module = dict(refinement=study, objectives=recipes, detectors=detectors)[kind]
    monkeypatch.setattr(module.DATASETS, "build", lambda cfg: Images())
    monkeypatch.setattr(module, "CheckedCOCO", Truth)
    monkeypatch.setattr(module, "use_checked_annotations", lambda: None)
    if kind == "detectors":
        monkeypatch.setattr(module._Study, "run", stop)
        monkeypatch.setattr(module._Study, "_check", lambda *args: None)
    else:
        monkeypatch.setattr(module, "claim_folder", lambda *args: None)
        monkeypatch.setattr(
            module, "load_frozen_detector", lambda cfg: SimpleNamespace(detector=None)
        )
        monkeypatch.setattr(module, "residual_prior", lambda *args: (None, None))
        monkeypatch.setattr(module, "cache_test_images", stop)
        monkeypatch.setattr(study, "nms_of", lambda detector: None)
    model = dict(type="EBMDetector", detector=DETECTOR)
    loader = dict(dataset=dict(type="CocoDataset"))
    cfg = Config(
        dict(
            model=model,
            load_from="w.pth",
            train_dataloader=loader,
            val_dataloader=loader,
            val_evaluator=[OTHER, dict(HIGH, max_dets=120)],
        )
    )
    lines: list[str] = []
    calls = dict(
        refinement=lambda: study.run_study(cfg, tmp_path, StudySettings(rivals=()), lines.append),
        objectives=lambda: recipes.compare_recipes(
            {"A": cfg}, tmp_path, StudySettings(), lines.append
        ),
        detectors=lambda: detectors.compare_detectors(
            {"A": cfg}, [Row("A")], tmp_path, StudySettings(), lines.append
        ),
    )
    with pytest.raises(Stop):
        calls[kind]()
    counted, kept = [line for line in lines if "objects" in line]
    assert "only 120 detections" in counted
    assert "keeps at most 100 boxes" in kept
