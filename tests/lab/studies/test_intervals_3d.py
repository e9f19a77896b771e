"""The study of intervals in 3D, on generated scenes and a detector whose errors are known."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmdet3d.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ebm_mmdet3d.apis.matched_dims import matched_dims
from lab.studies import intervals
from lab.studies import intervals_3d as study
from lab.studies.interval_rivals import Rivals
from lab.studies.intervals import interval_table, measure_intervals, random_halves
from lab.studies.intervals_3d import LidarBoxes, SizedDims, models_in_3d
from lab.studies.replay import Replay
from lab.studies.study_file import StudyFileError
from tests.ebm_mmdet3d.apis.noisy_oracle_3d import CONFIG, NoisyOracle3D
from tests.ebm_mmdet3d.models.toys import ToyBEVDetector, build, ebm_cfg
from tests.lab.demo.miniature import load_tool

CLASSES = ("Car", "Van")


@pytest.fixture(scope="module", autouse=True)
def _scope():
    init_default_scope("mmdet3d")


class Scenes:
    """Items of the oracle's data set, made once."""

    def __init__(self, cfg: dict) -> None:
        dataset = DATASETS.build(cfg)
        self.metainfo = dataset.metainfo
        self.items = [dataset[i] for i in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return copy.deepcopy(self.items[index])


@pytest.fixture(scope="module")
def oracle(tmp_path_factory) -> Path:
    """A folder with the config of an oracle on generated scenes, and its weights."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "lidar.py").write_text(CONFIG.format(seed=1, scenes=16))
    torch.save(dict(state_dict=NoisyOracle3D().state_dict(), meta={}), folder / "best.pth")
    return folder


@pytest.fixture(scope="module")
def scenes(oracle) -> Scenes:
    return Scenes(Config.fromfile(oracle / "lidar.py").test_dataloader.dataset)


def errors(number: int = 1500, dependent: bool = False) -> SizedDims:
    """Five detections in each frame; errors are Gaussian, and half as large as stated."""
    generator = torch.Generator().manual_seed(0)
    units = torch.tensor([1.0, 1, 0.2, 2, 0.2, 0.2, 0.1])
    frame = torch.arange(number) // 5
    noise = torch.randn(number, 7, generator=generator)
    labels = torch.randint(0, 2, (number,), generator=generator)
    return SizedDims(
        residual=0.1 * units * (noise[frame] if dependent else noise),
        spread=0.2 * units.expand(number, 7),
        labels=labels,
        image=frame,
        sizes=torch.full((number, 3), 4.0),
        large=torch.randint(0, 2, (number,), generator=generator),
        kind="std",
    )


def by_bounds(rows: list[dict]) -> dict[str, dict]:
    return {row["bounds"]: row for row in rows}


def test_independent_errors_are_covered_as_the_theory_says_in_their_units():
    boxes = LidarBoxes()
    rows = by_bounds(random_halves(errors(), 2, 0.9, 20, boxes=boxes))
    ways = ("one for all", "by class", "by class and size", "one for all, by frame", "joint")
    assert list(rows) == ["Gaussian, ± 1.64 std", *ways]
    assert rows["Gaussian, ± 1.64 std"]["coverage"] > 0.995  # stated twice too large
    for name in ways:
        for key in ("coverage", "small", "large"):
            assert rows[name][key] == pytest.approx(0.9, abs=0.02)
    assert rows["one for all"]["in_band"] > 0.85
    # 2 x 1.645 x 0.1 units, the least that can hold.
    widths = [rows["one for all"][key] for key in boxes.units]
    assert widths == pytest.approx([0.329, 0.329, 0.0658, 0.658, 0.0658, 0.0658, 0.0329], rel=0.06)
    joint = [rows["joint"][key] for key in boxes.units]
    # Seven at once: 0.9 ** (1 / 7) of each, ± 2.43 σ.
    assert joint == pytest.approx([2.43 / 1.645 * width for width in widths], rel=0.06)
    together = by_bounds(random_halves(errors(dependent=True), 2, 0.9, 20, boxes=boxes))
    assert together["one for all"]["in_band"] < rows["one for all"]["in_band"] - 0.1
    table = interval_table(list(rows.values()), boxes)
    assert table.count("\n") == 1 + len(rows)
    heading = "smaller half | larger half | in the band | x, m | y, m | z, m | l, m | w, m | h, m"
    assert f"| {heading} | yaw, rad |" in table


def test_joint_metres_are_counted_without_the_frames_that_give_their_units(monkeypatch):
    """The band is that of as many calibration scores as the bounds come from."""
    real, used = intervals.betabinom, []
    monkeypatch.setattr(
        intervals,
        "betabinom",
        lambda n, a, b: used.append((a + b - 1) / (1500 - n)) or real(n, a, b),
    )
    found = errors()._replace(
        kind="metres", spread=torch.ones(1500, 7), labels=torch.zeros(1500, dtype=torch.long)
    )
    rows = by_bounds(random_halves(found, 1, 0.9, 3, boxes=LidarBoxes()))
    assert used[:-3] == [1.0] * 9
    assert used[-3:] == pytest.approx([0.8] * 3, abs=0.05)
    assert rows["joint"]["coverage"] == pytest.approx(0.9, abs=0.03)
    assert "by class" not in rows  # there is one


def test_no_interval_of_yaw_is_wider_than_its_period_nor_a_size_below_zero():
    found = errors(400)._replace(sizes=torch.full((400, 3), 1e-3))
    found.residual[::4, 6] = 1.5  # a fifth and more are turned
    for undirected, period in ((True, math.pi), (False, 2 * math.pi)):
        boxes = LidarBoxes(undirected)
        reach = boxes.gaussian(1000.0, found)
        assert reach[:, 6].sum(-1) == pytest.approx(period)
        assert reach[:, 3:6, 0] == pytest.approx(1e-3)
        assert (reach[:, 3:6, 1] > 10).all()
        rows = random_halves(found, 2, 0.9, 3, boxes=boxes)
        assert max(row["width_yaw"] for row in rows) <= period + 1e-5


def test_matched_detections_keep_their_sizes(scenes):
    """With the residual they lead to the sizes of objects."""
    model, boxes = NoisyOracle3D().eval(), LidarBoxes(undirected=True)
    model.dataset_meta = dict(classes=CLASSES)
    found = boxes.match(Replay(model), scenes, 0.9, "std")
    usual = matched_dims(model, scenes, "std", period=math.pi)
    for name in ("residual", "spread", "labels", "image"):
        assert torch.equal(getattr(found, name), getattr(usual, name))
    truth = found.sizes + found.residual[:, 3:6]
    objects = [item["data_samples"].gt_instances_3d.bboxes_3d for item in scenes.items]
    known = torch.cat([each.dims for each in objects])
    assert (truth[:, None] - known).abs().amax(2).amin(1).max() < 1e-5
    assert (found.large == 1).sum() == pytest.approx(len(found.large) / 2, abs=1)
    assert found.sizes[found.large == 1].prod(1).min() > found.sizes[found.large == 0].prod(1).max()


@MODELS.register_module()
class SeeingOracle3D(ToyBEVDetector):
    """The oracle without a spread, with a map that an energy head can read."""

    with_std, scale = False, torch.ones(())

    def predict(self, batch_inputs_dict, batch_data_samples, **kwargs):
        self.extract_feat(batch_inputs_dict)
        return NoisyOracle3D.predict(self, batch_inputs_dict, batch_data_samples)


@pytest.fixture
def wrapped(monkeypatch, scenes):
    model = build(ebm_cfg(dict(type="SeeingOracle3D"), dict(num_classes=2), min_score=0.1))
    model.dataset_meta = dict(classes=CLASSES)
    monkeypatch.setattr(study, "load_detector", lambda *_: copy.deepcopy(model))
    monkeypatch.setattr(study, "lidar_dataset", lambda cfg: scenes)
    return model


def test_an_energy_head_is_compared_with_its_detector_and_its_samples(wrapped, scenes, oracle):
    boxes, found = LidarBoxes(undirected=True), {}
    for name, model in models_in_3d(Config(), "best.pth", scenes, boxes):
        found[name] = boxes.match(Replay(model), scenes, 0.9, "metres")
    assert list(found) == ["detector", "energy head", "energy head, 32 samples"]
    plain = matched_dims(NoisyOracle3D(with_std=False).eval(), scenes, "metres", period=math.pi)
    assert torch.equal(found["detector"].residual, plain.residual)
    for name in list(found)[1:]:
        assert not torch.equal(found[name].residual, plain.residual)
    lines = []
    rows = measure_intervals(
        oracle / "lidar.py", "best.pth", splits=2, say=lines.append, undirected=True
    )
    assert {row["boxes"] for row in rows} == set(found)
    with_std = {row["boxes"] for row in rows if row["spread"] == "std"}
    assert with_std == {"energy head, 32 samples"}
    assert [line.split(":")[0] for line in lines if " without std" in line] == [
        "detector without std",
        "energy head without std",
    ]
    # Eight of 16 frames are too few for bounds from frames; the other rows stay.
    assert "without metres, one for all, by frame: 8 scores cannot bound" in lines[1]
    assert {row["bounds"] for row in rows} >= {"one for all", "by class", "joint"}
    assert "| energy head, 32 samples: std, joint |" in lines[-1]


def test_samples_are_left_out_where_too_few_detections_tell_how_wide(wrapped, scenes):
    few, lines = copy.copy(scenes), []
    few.items = few.items[:1]
    names = [name for name, _ in models_in_3d(Config(), "", few, LidarBoxes(), lines.append)]
    assert names == ["detector", "energy head"]
    assert lines[0].startswith("without energy head, 32 samples: ")


def test_the_command_is_that_of_two_dimensions(oracle, tmp_path, capsys):
    (tmp_path / "few.py").write_text(CONFIG.format(seed=1, scenes=8))
    arguments = [str(tmp_path / "few.py"), str(oracle / "best.pth")]
    out = tmp_path / "rows.json"
    options = ["--undirected", "--splits", "3", "--level", "0.8", "--out", str(out)]
    load_tool("study").main(["intervals", *arguments, *options])
    rows = json.loads(out.read_text())["rows"]
    assert {(row["spread"], row["bounds"]) for row in rows} >= {
        ("std", "Gaussian, ± 1.28 std"),
        ("std", "joint"),
        ("metres", "by class"),
    }
    assert "| metres, joint |" in capsys.readouterr().out
    for options in (dict(num_shapes=3), dict(rivals=Rivals(tmp_path, tmp_path))):
        with pytest.raises(StudyFileError, match="is for boxes in images; .* has boxes in 3D"):
            measure_intervals(*arguments, **options)
    (tmp_path / "flat.py").write_text("model = dict()")
    with pytest.raises(StudyFileError, match="--undirected is for boxes in 3D"):
        measure_intervals(tmp_path / "flat.py", "best.pth", undirected=True)
