"""`tools/demo3d.py`: the whole demo in miniature, and its parts."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("mmdet3d", reason="the demo trains an mmdet3d detector")

import lab.demo.run as run_module
from lab.demo.climb import Climb, typical_gains
from lab.demo.folder import RESULTS
from lab.demo.lidar import LidarWorld
from lab.demo.lidar.evaluate import MEAN_IOU, METRICS_SHOWN, TIME, iou_along
from lab.demo.lidar.pictures import draw_all, rotation_scan
from lab.demo.run import run_demo
from tests.lab.demo.miniature import CONFIGS, load_tool, run_twice

_SHORT = {
    "train_dataloader": {"batch_size": 2, "num_workers": 0, "persistent_workers": False},
    "train_cfg": {"max_iters": 2},
    "default_hooks": {"logger": {"interval": 1}},
}
OVERRIDES = {
    "base": _SHORT,
    "ebm": {
        **_SHORT,
        "model": {
            # With every location a candidate, an untrained detector gives boxes to refine.
            "detector": {"test_cfg": {"score_thr": 0.0, "max_num": 5}},
            "energy_head": {"fc_channels": [16]},
        },
    },
}


@pytest.mark.slow
def test_miniature_run_goes_on_and_is_never_overwritten(tmp_path, capsys, monkeypatch):
    out = tmp_path / "demo3d"
    world = LidarWorld(num_scenes=3)
    monkeypatch.setattr(run_module, "STEPS", (0, 1, 3))
    screen = run_twice(world, out, OVERRIDES, monkeypatch, capsys)
    for name in ("BEV AP, IoU 0.90", MEAN_IOU, TIME):
        assert name in screen

    (result,) = json.loads((out / RESULTS).read_text())
    assert result["at"] == [0, 1, 3, 10]
    assert {**result["steps"][0], TIME: result["milliseconds"][0]} == result["before"]
    assert {**result["steps"][3], TIME: result["milliseconds"][3]} == result["after"]
    assert set(METRICS_SHOWN) < set(result["before"])
    assert (out / "pictures" / "ap_and_time_vs_steps.png").stat().st_size > 10_000

    before = sorted(p for p in out.rglob("*") if p.is_file())
    again = run_demo(world, CONFIGS, out, overrides={**OVERRIDES, "other": {}})
    assert again == tmp_path / "demo3d-2"
    assert sorted(p for p in out.rglob("*") if p.is_file()) == before


@pytest.mark.slow
def test_one_traced_climb_gives_what_separate_runs_give(tmp_path, monkeypatch):
    import torch
    from mmdet3d.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    import lab.demo.lidar.evaluate as evaluate
    from lab.demo.evaluate import val_loader
    from lab.demo.lidar.data import generate, use_data

    init_default_scope("mmdet3d")
    cfg = Config.fromfile(CONFIGS / "lidar_ebm.py")
    generate(tmp_path / "data", cfg, 2)
    use_data(cfg, tmp_path / "data")
    cfg.merge_from_dict(OVERRIDES["ebm"])
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    torch.nn.init.normal_(model.energy_head.fc_energy.weight)  # a slope that moves boxes
    torch.nn.init.normal_(model.energy_head.regression.fc.weight, std=0.1)
    assert model.refiner.regression_steps == 1
    loader = val_loader(cfg)

    class Keeps:
        """Replaces a metric and records its arguments, step by step."""

        def __init__(self):
            self.boxes = []

        def process(self, _, samples):
            self.boxes += [s["pred_instances_3d"]["bboxes_3d"].tensor.clone() for s in samples]

    kept = []
    monkeypatch.setattr(evaluate, "_metric", lambda *_: kept.append(Keeps()) or kept[-1])
    monkeypatch.setattr(evaluate, "_values", lambda *_: {})
    evaluate.trace_steps(model, cfg, loader, [0, 1, 3])
    assert model.refiner.num_steps == 10  # put back
    for count, metric in zip((0, 1, 3), kept):
        model.refiner.num_steps = count
        model.refiner.regression_steps = min(count, 1)  # zero steps are none of either kind
        for batch, boxes in zip(loader, metric.boxes):
            with torch.inference_mode():
                found = model.test_step(batch)[0].pred_instances_3d
            assert len(found) > 0
            torch.testing.assert_close(found.bboxes_3d.tensor, boxes, rtol=0, atol=1e-5)
    assert not torch.equal(kept[0].boxes[0], kept[2].boxes[0])


def climb(gain, number=0):
    """A box that moves along x by `gain` towards the truth; f falls with the distance."""
    truth = np.array([10.0, 1.0, -1.7, 4.0, 1.8, 1.5, 0.3])
    path = np.tile(truth, (3, 1))
    path[:, 0] += gain * np.array([2.0, 1.5, 1.0])
    points = np.random.default_rng(number).uniform([0, -10, -2, 0], [30, 10, 1, 1], (500, 4))

    def log_density(offsets):
        yaw = offsets[:, 6] + path[0, 6] - truth[6]
        return (2 * yaw).cos() - offsets[:, 0].abs()

    return Climb(points, truth, path, iou_along(path, truth), log_density, number)


def test_pictures_of_climbs(tmp_path):
    climbs = [climb(gain, number) for number in range(2) for gain in (0.1, 0.5, -0.3)]
    draw_all(climbs, (0, -17.6, 35.2, 17.6), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "bev_scenes.png",
        "bev_boxes.png",
        "rotation.png",
    }
    draw_all([], (0, 0, 1, 1), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    chosen = typical_gains(climbs, 2)
    gains = [c.iou[-1] - c.iou[0] for c in chosen]
    assert gains[0] == max(c.iou[-1] - c.iou[0] for c in climbs)
    assert gains == sorted(gains, reverse=True)


def test_rotation_scan_turns_the_refined_box():
    found = climb(0.5)
    angles = np.array([-np.pi / 2, 0.0, np.pi / 2])
    f = rotation_scan(found, angles)
    shift = abs(found.path[-1, 0] - found.path[0, 0])
    np.testing.assert_allclose(f, [-1 - shift, 1 - shift, -1 - shift], atol=1e-5)


def test_command_lines(tmp_path, capsys):
    demo = load_tool("demo3d")
    with pytest.raises(SystemExit):
        demo.parse_args(["--seeds", "0"])
    tool = load_tool("dataset_converters/create_kitti_infos")
    root = tmp_path / "scenes"
    tool.main([str(root), "--generate", "train=2", "val=1", "--seed", "3", "--database"])
    shown = capsys.readouterr().out
    for name in ("kitti_infos_train.pkl", "kitti_infos_val.pkl", "kitti_dbinfos_train.pkl"):
        assert (root / name).is_file()
        assert str(root / name) in shown
    with pytest.raises(SystemExit, match=r"create_kitti_infos: .*not overwritten"):
        tool.main([str(root)])
    with pytest.raises(SystemExit, match=r"create_kitti_infos: .*expected layout"):
        tool.main([str(tmp_path / "nowhere")])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        tool.parse_args([str(root), "--generate", "train"])
    assert "expected SPLIT=NUMBER" in capsys.readouterr().err
