"""Calibrated intervals of 3D boxes, from annotated scenes to a model's predictions."""

from __future__ import annotations

import copy
import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmdet3d.registry import DATASETS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from ebm_mmdet.apis import load_detector
from ebm_mmdet.commands import main
from ebm_mmdet.energy import evaluate_only, expected_coverage
from ebm_mmdet.models import attach_intervals
from ebm_mmdet3d.apis.interval_calibration import calibrate_3d, fit_dim_intervals
from ebm_mmdet3d.apis.matched_dims import MatchedDims, match_boxes_3d, matched_dims
from ebm_mmdet3d.models.detectors import DimIntervals
from ebm_mmdet3d.models.detectors.dim_intervals import wrapped
from tests.ebm_mmdet3d.apis.noisy_oracle_3d import CONFIG, NoisyOracle3D
from tests.ebm_mmdet3d.models.toys import batch, build, ebm_cfg, frame

dims_module = importlib.import_module("ebm_mmdet3d.apis.matched_dims")
"""The package has a function of the same name."""


@pytest.fixture(scope="module", autouse=True)
def _scope():
    init_default_scope("mmdet3d")


class Scenes(torch.utils.data.Dataset):
    """Items of a data set, made once."""

    def __init__(self, dataset, metainfo: dict | None = None) -> None:
        self.items = [dataset[i] for i in range(len(dataset))]
        self.metainfo = metainfo or dataset.metainfo

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return copy.deepcopy(self.items[index])


@pytest.fixture(scope="module")
def oracle(tmp_path_factory) -> Path:
    """A folder with the config of an oracle on generated scenes, and its weights."""
    folder = tmp_path_factory.mktemp("user") / "my work"
    folder.mkdir()
    (folder / "lidar.py").write_text(CONFIG.format(seed=1, scenes=50))
    (folder / "few.py").write_text(CONFIG.format(seed=1, scenes=2))
    torch.save(
        dict(state_dict=NoisyOracle3D().state_dict(), meta=dict(epoch=3), optimizer=dict(lr=1.0)),
        folder / "best.pth",
    )
    return folder


@pytest.fixture(scope="module")
def scenes(oracle) -> dict[int, Scenes]:
    cfg = Config.fromfile(oracle / "lidar.py").test_dataloader.dataset
    return {seed: Scenes(DATASETS.build({**cfg, "seed": seed})) for seed in (1, 2)}


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize(
    ("kind", "undirected"), [("std", True), ("metres", True), ("metres", False)]
)
def test_intervals_hold_on_other_scenes(scenes, kind, undirected, joint):
    """In all and for each class, though the stated spread is wrong by the class."""
    model = NoisyOracle3D().eval()
    period, level = (1 + (not undirected)) * math.pi, 0.9
    first, second = (matched_dims(model, scenes[seed], kind, period=period) for seed in (1, 2))
    assert len(first.residual) > 300
    found = fit_dim_intervals(first, 2, level, joint, period=period, min_count=60)
    used = found.facts["counts"][-1]
    assert used == len(first.residual) if not (joint and kind == "metres") else used > 200
    sample = Det3DDataSample()
    boxes = torch.zeros(len(second.residual), 7)
    sample.pred_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(boxes), labels_3d=second.labels, box_std=second.spread
    )
    found.add_to(sample)
    low, high = sample.pred_instances_3d.dim_interval.unbind(-1)
    reach = (high - boxes)[:, 3:6]  # sizes are positive, so lower ends stop at zero
    low[:, 3:6] = -reach
    inside = (second.residual >= low) & (second.residual <= high)
    if not undirected:  # a fifth is turned around: an interval of yaw is nearly the whole circle
        assert (high - low)[:, 6].min() > 6.0
    shown = inside.all(1, keepdim=True) if joint else inside
    mean, std = expected_coverage(used, level)
    for rows in (shown, *(shown[second.labels == label] for label in (0, 1))):
        error = math.hypot(std * (used / len(rows)) ** 0.5, math.sqrt(0.09 / len(rows)))
        assert ((rows.float().mean(0) - mean).abs() < 4 * error).all()


def test_bounds_are_those_of_each_class_by_the_definition(scenes):
    dims = matched_dims(NoisyOracle3D().eval(), scenes[1], period=math.pi)
    assert dims.kind == "std"
    found = fit_dim_intervals(dims, 3, 0.8, min_count=30, period=math.pi)
    ratio = (dims.residual / dims.spread).abs().numpy()
    labels = dims.labels.numpy()
    assert found.facts["source"] == [0, 0, 4, 4]  # no object is of the third class
    for row, rows in enumerate((labels == 0, labels == 1, labels >= 0, labels >= 0)):
        kth = np.sort(ratio[rows], axis=0)[math.ceil((rows.sum() + 1) * 0.8) - 1]
        np.testing.assert_allclose(found.bounds[row], kth, rtol=1e-5)
    assert found.bounds[1].mean() > 1.5 * found.bounds[0].mean()  # vans err twice as much


def test_joint_metres_have_units_from_frames_that_are_not_counted():
    generator = torch.Generator().manual_seed(0)
    units = torch.tensor([1.0, 2, 3, 4, 5, 6, 0.1])
    dims = MatchedDims(
        units * torch.randn(500, 7, generator=generator),
        torch.ones(500, 7),
        torch.zeros(500, dtype=torch.long),
        torch.arange(500) // 5,
        "metres",
    )
    found = fit_dim_intervals(dims, 1, 0.9, joint=True)
    aside = dims.image % 5 == 0
    torch.testing.assert_close(
        torch.tensor(found.scale), dims.residual[aside].abs().median(0).values
    )
    assert found.facts["counts"] == [400, 400]
    largest = (dims.residual / torch.tensor(found.scale)).abs().amax(1)[~aside]
    assert found.bounds[0].item() == pytest.approx(largest.sort().values[360].item())
    with pytest.raises(ValueError, match=r"500 of 500 detections are in every 5th frame"):
        fit_dim_intervals(dims._replace(image=0 * dims.image), 1, 0.9, joint=True)


def test_angles_are_wrapped_around_zero():
    angle = torch.tensor([0.1, 3.0, -3.0, 3.3, 2 * math.pi + 0.1, -7.0])
    assert wrapped(angle).tolist() == pytest.approx(
        [0.1, 3.0, -3.0, 3.3 - 2 * math.pi, 0.1, 2 * math.pi - 7], abs=1e-5
    )
    assert wrapped(angle, math.pi).abs().max() <= math.pi / 2
    assert wrapped(torch.tensor([math.pi + 0.1]), math.pi).item() == pytest.approx(0.1, abs=1e-5)


def test_detections_match_one_to_one_within_a_class():
    car = torch.tensor([10.0, 0, -1, 4, 2, 1.5, 0.2])
    truth = torch.stack((car, car + torch.tensor([20.0, 0, 0, 0, 0, 0, 0]), car))
    boxes = torch.stack((car + 0.05, car, truth[1], truth[1], truth[1], car * math.nan))
    scores = torch.tensor([0.9, 0.95, 0.2, 0.5, 0.4, 1.0])
    labels, classes = torch.tensor([0, 0, 1, 0, 1, 0]), torch.tensor([0, 1, -1])
    matched, objects = match_boxes_3d(boxes, scores, labels, truth, classes)
    # The better one takes the car; the third is not sure enough, the fourth of another class.
    assert (matched.tolist(), objects.tolist()) == ([1, 4], [0, 1])
    for few in (boxes[:0], boxes):
        matched, _ = match_boxes_3d(
            few, scores[: len(few)], labels[: len(few)], truth[:0], classes[:0]
        )
        assert matched.tolist() == []


def test_the_truth_of_a_test_pipeline_is_that_of_the_evaluation(scenes):
    """mmdet3d's own data sets have it in `eval_ann_info`, with an array of labels."""

    def moved(item: dict) -> dict:
        sample = item["data_samples"]
        truth = sample.gt_instances_3d
        sample.eval_ann_info = dict(
            gt_bboxes_3d=truth.bboxes_3d, gt_labels_3d=truth.labels_3d.numpy()
        )
        sample.gt_instances_3d = InstanceData()
        return item

    class Fixed(NoisyOracle3D):
        """Looks at the evaluation's boxes."""

        def predict(self, inputs, samples, **kwargs):
            for sample in samples:
                known = sample.eval_ann_info
                sample.gt_instances_3d = InstanceData(
                    bboxes_3d=known["gt_bboxes_3d"],
                    labels_3d=torch.as_tensor(known["gt_labels_3d"]),
                )
            return super().predict(inputs, samples, **kwargs)

    usual = matched_dims(NoisyOracle3D().eval(), [scenes[1][i] for i in range(3)])
    found = matched_dims(Fixed().eval(), [moved(scenes[1][i]) for i in range(3)])
    assert len(usual.residual) > 10
    assert torch.equal(found.residual, usual.residual)


def some(spread: str = "metres", joint: bool = False) -> DimIntervals:
    columns = 1 if joint else 7
    bounds = torch.arange(1.0, 4.0)[:, None].expand(3, columns).clone()
    return DimIntervals(0.9, joint, spread, bounds, scale=tuple(0.1 * k for k in range(1, 8)))


@pytest.mark.parametrize("joint", [False, True])
def test_an_interval_is_the_box_plus_and_minus_its_bound(joint):
    boxes = torch.tensor([[1.0, 2, -1, 4, 2, 1.5, 3.1]]).repeat(4, 1)
    found = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(torch.cat((boxes, torch.ones(4, 2)), 1), box_dim=9),
        labels_3d=torch.tensor([0, 1, 7, -1]),  # the last two have no class
        box_std=torch.full((4, 7), 2.0),
    )
    found.box_std[1, 0], found.box_std[0, 6] = math.inf, math.nan
    sample = Det3DDataSample(pred_instances_3d=found)
    one = some(joint=joint)
    one.add_to(sample)
    scale = torch.tensor(one.scale)
    ends = found.dim_interval
    assert ends.shape == (4, 7, 2)
    for row, bound in enumerate((1.0, 2.0, 3.0, 3.0)):
        torch.testing.assert_close(ends[row, :, 1], boxes[row] + bound * scale)
    assert ends[3, 5, 0] == 0  # 1.5 - 3 * 0.6: no height is below zero
    one = some("std", joint)
    one.add_to(sample)
    assert found.dim_interval[1, 0].tolist() == [-math.inf, math.inf]
    assert found.dim_interval[0, 6, 1] == pytest.approx(3.1 + math.pi)  # at most half a circle
    sample.pred_instances_3d = found[:0]
    one.add_to(sample)
    assert sample.pred_instances_3d.dim_interval.shape == (0, 7, 2)
    del found.box_std
    with pytest.raises(ValueError, match="need box_std .* ImportanceMeanRefiner"):
        one.add_to(Det3DDataSample(pred_instances_3d=found))


def test_they_survive_a_checkpoint(tmp_path):
    one = some()
    torch.save(dict(meta={"dim_intervals": one.to_meta()}), tmp_path / "a.pth")
    meta = torch.load(tmp_path / "a.pth", weights_only=True)["meta"]
    again = DimIntervals.from_meta(meta)
    assert torch.equal(again.bounds, one.bounds)
    assert again.to_meta() == one.to_meta()
    assert DimIntervals.from_meta({}) is None
    del meta["dim_intervals"]["level"]
    with pytest.raises(ValueError, match="dim_intervals cannot be read .*calibrate it again"):
        DimIntervals.from_meta(meta)
    with pytest.raises(ValueError, match=r"shape \(3, 7\) .* expected \(classes \+ 1, 1\)"):
        DimIntervals(0.9, True, "metres", one.bounds)


def test_a_refining_model_gives_them_with_its_own_refiner():
    model = build(ebm_cfg())
    frames = [frame(seed=0), frame(seed=1)]
    with torch.no_grad():
        plain = model.predict(**_inputs(batch(model, frames)))
        assert "dim_interval" not in plain[0].pred_instances_3d
        attach_intervals(model, some(), DimIntervals)
        model = copy.deepcopy(model)
        own = model.predict(**_inputs(batch(model, frames)))
        other = model.predict(**_inputs(batch(model, frames)), refiner=evaluate_only)
    for before, now in zip(plain, own):
        found = now.pred_instances_3d
        assert torch.equal(found.bboxes_3d.tensor, before.pred_instances_3d.bboxes_3d.tensor)
        low, high = found.dim_interval.unbind(-1)
        assert ((low <= found.bboxes_3d.tensor) & (found.bboxes_3d.tensor <= high)).all()
    assert "dim_interval" not in other[0].pred_instances_3d
    attach_intervals(model, None, DimIntervals)
    assert model.dim_intervals is None


def test_frames_without_points_have_empty_ones():
    model = build(ebm_cfg())
    attach_intervals(model, some(), DimIntervals)
    (points, first), (_, second) = frame(seed=0), frame(seed=1)
    with torch.no_grad():
        data = batch(model, [(points, first), (points[:0], second)])
        found = [s.pred_instances_3d for s in model.predict(**_inputs(data))]
    assert [tuple(each.dim_interval.shape[1:]) for each in found] == [(7, 2)] * 2
    assert len(found[1].dim_interval) == 0


def _inputs(data: dict) -> dict:
    return dict(batch_inputs_dict=data["inputs"], batch_data_samples=data["data_samples"])


def test_the_command_from_scenes_to_predictions(oracle, scenes, monkeypatch, capsys):
    monkeypatch.chdir(oracle)
    monkeypatch.setattr(
        "ebm_mmdet.apis.calibration_run.CalibrationRun.dataset", lambda *_: scenes[1]
    )
    call = ["calibrate", "lidar.py", "best.pth", "--device", "cpu"]
    before = (oracle / "best.pth").read_bytes()
    assert main([*call, "--undirected", "--min-count", "60"]) == 0
    said = capsys.readouterr().out
    assert "coverage of each number: 90." in said
    assert "bounds of all, in standard deviations: x " in said
    assert "2 of 2 classes have bounds of their own" in said
    assert (oracle / "best.pth").read_bytes() == before
    assert main(call) == 1
    assert "best_intervals.pth exists" in capsys.readouterr().err
    assert main([*call, "--images", "."]) == 1
    assert "--images is for images" in capsys.readouterr().err
    stored = torch.load("best_intervals.pth", weights_only=True)
    assert sorted(stored) == ["meta", "state_dict"]
    assert stored["meta"]["epoch"] == 3

    model = load_detector("lidar.py", "best_intervals.pth")
    item = scenes[2][0]
    data = dict(inputs=dict(points=[item["inputs"]["points"]]), data_samples=[item["data_samples"]])
    with torch.no_grad():
        (sample,) = model.test_step(data)  # a detector without an energy head: a forward hook
    found = sample.pred_instances_3d
    assert found.dim_interval.shape == (len(found.scores_3d), 7, 2)
    assert "dim_interval" in sample.to_dict()["pred_instances_3d"]
    cfg = Config.fromfile("lidar.py")
    cfg.model.with_std = False
    with pytest.warns(UserWarning, match="dim_interval may hold less often"):
        load_detector(cfg, "best_intervals.pth")


def test_refusals_come_before_the_work(oracle, tmp_path):
    config, weights = oracle / "few.py", oracle / "best.pth"

    def refused(error, match, **options):
        with pytest.raises(error, match=match):
            calibrate_3d(options.pop("config", config), weights, **options)

    (tmp_path / "there.pth").write_bytes(b"mine")
    refused(FileExistsError, r"there\.pth exists and is not over", out=tmp_path / "there.pth")
    assert (tmp_path / "there.pth").read_bytes() == b"mine"
    out = tmp_path / "new.pth"
    refused(ValueError, "level=90", level=90, out=out)
    refused(ValueError, "spread='pixels'; for 3D boxes use one of std, metres", spread="pixels")
    refused(
        FileNotFoundError, r"no annotation file .*no\.pkl", ann_file=tmp_path / "no.pkl", out=out
    )
    refused(ValueError, r"0\.3 or more match .*0\.99 takes 99", level=0.99, out=out)
    refused(ValueError, r"^0 detections with a score of 0\.95", score_thr=0.95, out=out)
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.pipeline[0]["keys"] = ["points"]
    refused(ValueError, "frame 0 of the data set has no annotations", config=cfg, out=out)
    assert not list(tmp_path.glob("new.pth*"))
    assert not list(oracle.glob("*.unfinished"))


@pytest.mark.parametrize(
    ("classes", "fits"),
    [(["Car", "Van"], True), (["Car"], True), (["Van", "Car"], False), (["Van"], False)],
    ids=str,
)
def test_labels_mean_the_same_to_model_and_data(
    oracle, tmp_path, scenes, monkeypatch, classes, fits
):
    """One list may end before: a model that takes vans for cars has learned from both."""
    few = Scenes([scenes[1][i] for i in range(3)], scenes[1].metainfo)
    monkeypatch.setattr("ebm_mmdet.apis.calibration_run.CalibrationRun.dataset", lambda *_: few)
    weights, out = tmp_path / "best.pth", tmp_path / "out.pth"
    state = torch.load(oracle / "best.pth", weights_only=True)["state_dict"]
    torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=classes))), weights)
    if fits:
        calibrate_3d(oracle / "lidar.py", weights, out=out, level=0.5)
    else:
        with pytest.raises(ValueError, match=rf"classes are \{classes}.*those of the data set are"):
            calibrate_3d(oracle / "lidar.py", weights, out=out, level=0.5)
    assert out.exists() == fits
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize("by_image", [False, True])
def test_too_few_outside_of_the_frames_for_the_units(
    oracle, scenes, tmp_path, monkeypatch, by_image
):
    """All of them were enough. Nothing is left that would refuse a call with other settings."""
    monkeypatch.setattr(
        "ebm_mmdet.apis.calibration_run.CalibrationRun.dataset", lambda *_: scenes[1]
    )
    config, weights, out = oracle / "lidar.py", oracle / "best.pth", tmp_path / "a.pth"
    dims = matched_dims(NoisyOracle3D().eval(), scenes[1], "metres")
    rest = dims.image[dims.image % 5 != 0]
    number, found = (
        (len(rest.unique()), len(dims.image.unique()))
        if by_image
        else (
            len(rest),
            len(dims.image),
        )
    )
    level = found / (found + 1)  # that number is the least
    options = dict(out=out, level=level, joint=True, by_image=by_image, spread="metres")
    text = rf"^{number} (frames|detections) .*, without every 5th frame, .* takes {found} at least"
    with pytest.raises(ValueError, match=text):
        calibrate_3d(config, weights, **options)
    assert not list(tmp_path.iterdir())
    options.update(level=0.9, score_thr=0.1)
    intervals = calibrate_3d(config, weights, **options)
    assert intervals.facts["counts"][-1] == number
    assert list(tmp_path.iterdir()) == [out]


def test_a_second_call_at_the_same_time_is_refused(oracle, scenes, tmp_path, monkeypatch):
    """Level and joint decide nothing about the matches, and all about what is stored."""
    monkeypatch.setattr(
        "ebm_mmdet.apis.calibration_run.CalibrationRun.dataset", lambda *_: scenes[1]
    )
    arguments = oracle / "lidar.py", oracle / "best.pth"
    real, refused = dims_module.match_boxes_3d, []

    def matched(*rest):
        if not refused:
            refused.append(True)
            for options in (dict(level=0.5), dict(joint=True)):
                with pytest.raises(FileExistsError, match="another process works in"):
                    calibrate_3d(*arguments, out=tmp_path / "a.pth", **options)
        return real(*rest)

    monkeypatch.setattr(dims_module, "match_boxes_3d", matched)
    found = calibrate_3d(*arguments, out=tmp_path / "a.pth")
    stored = torch.load(tmp_path / "a.pth", weights_only=True)["meta"]["dim_intervals"]
    assert refused
    assert stored == found.to_meta()


def test_an_interrupted_calibration_goes_on(oracle, scenes, tmp_path, monkeypatch):
    """Killed three times; the bounds are those of a call in one piece."""
    config, weights, out = oracle / "lidar.py", oracle / "best.pth", tmp_path / "a b.pth"
    monkeypatch.setattr(
        "ebm_mmdet.apis.calibration_run.CalibrationRun.dataset", lambda *_: scenes[1]
    )
    whole = calibrate_3d(config, weights, out=tmp_path / "whole.pth", joint=True)
    real, frames, stops = dims_module.match_boxes_3d, [], []

    def interrupted(boxes, *rest):
        frames.append(boxes)
        if len(frames) in stops:
            raise KeyboardInterrupt
        return real(boxes, *rest)

    monkeypatch.setattr(dims_module, "match_boxes_3d", interrupted)
    for stops[:] in ([1], [22], [23]):
        with pytest.raises(KeyboardInterrupt):
            calibrate_3d(config, weights, out=out)
    unfinished = tmp_path / "a b.pth.unfinished"
    assert len(list(unfinished.glob("part_*.pth"))) == 1
    with pytest.raises(FileExistsError, match="calibration with another undirected; give a new"):
        calibrate_3d(config, weights, out=out, undirected=True)
    with pytest.raises(FileExistsError, match="another config, spread"):
        calibrate_3d(oracle / "few.py", weights, out=out, spread="metres")
    lines = []
    found = calibrate_3d(config, weights, out=out, joint=True, say=lines.append)
    assert len(frames) == 53  # 50, and 3 that were interrupted
    assert f"going on from {unfinished}" in lines
    assert torch.equal(found.bounds, whole.bounds)
    assert found.facts == whole.facts
    assert not unfinished.exists()
