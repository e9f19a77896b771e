"""`tools/demo.py`: the whole demo in miniature, its folder rules, and its messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

pytest.importorskip("mmdet", reason="the demo trains an mmdet detector")

import lab.demo.run as run_module
from ebm_mmdet.datasets import write_coco
from ebm_mmdet.files import write_json
from lab.demo import report
from lab.demo.climb import Climb, first_matches
from lab.demo.folder import RESULTS, SETTINGS, choose_folder
from lab.demo.run import run_demo
from lab.demo.shapes import ShapesWorld
from lab.demo.shapes.data import DemoData, check_folder, use_data
from lab.demo.shapes.evaluate import METRICS_SHOWN
from lab.demo.shapes.pictures import draw_all
from lab.demo.world import STEPS, DataError
from tests.lab.demo.miniature import CONFIGS, ROOT, load_tool, run_twice

_SHORT = {"train_dataloader": {"batch_size": 2}, "default_hooks": {"logger": {"interval": 1}}}
OVERRIDES = {
    # With every location a candidate, an untrained detector gives boxes to refine.
    "base": {**_SHORT, "train_cfg": {"max_iters": 2}},
    "ebm": {
        **_SHORT,
        "train_cfg": {"max_iters": 2},
        "model": {
            "detector": {"test_cfg": {"score_thr": 0.0, "max_per_img": 5}},
            "energy_head": {"fc_channels": [16], "pool_size": 3},
        },
    },
}
NUM_IMAGES = {"train": 4, "val": 3}


def _test(out: Path, num_steps: int, work_dir: Path) -> dict[str, float]:
    """Metrics of a finished miniature run as mmengine's runner computes them."""
    cfg = Config.fromfile(CONFIGS / "shapes_ebm.py")
    use_data(cfg, DemoData(out / "data", tuple(cfg.classes), generated=True))
    cfg.merge_from_dict(OVERRIDES["ebm"])
    cfg.model.refiner.num_steps = num_steps
    cfg.load_from = str(out / "seed0" / "energy_head" / "iter_2.pth")
    cfg.work_dir = str(work_dir)
    return Runner.from_cfg(cfg).test()


@pytest.mark.slow
def test_miniature_run_goes_on_and_is_never_overwritten(tmp_path, capsys, monkeypatch):
    out = tmp_path / "demo"
    world = ShapesWorld(num_images=NUM_IMAGES)
    screen = run_twice(world, out, OVERRIDES, monkeypatch, capsys)
    for name in ("AP90", "mean IoU", "ms per image", report.EARLY_STOP[:40]):
        assert name in screen

    (result,) = json.loads((out / RESULTS).read_text())
    assert result["num_steps"] == 10
    assert result["before"]["ms per image"] > 0
    assert result["after"]["ms per image"] > 0
    # One traced climb must give what tests of the model with T = 0 and T = 10 give.
    for num_steps, traced in ((0, result["before"]), (10, result["after"])):
        tested = _test(out, num_steps, tmp_path / f"test{num_steps}")
        for name, key in METRICS_SHOWN.items():
            expected = tested[f"coco/{key}"] * (1 if name == "mean IoU" else 100)
            np.testing.assert_allclose(traced[name], expected, atol=1e-6, err_msg=name)
        at_step = result["steps"][STEPS.index(num_steps)]
        assert {name: traced[name] for name in METRICS_SHOWN} == at_step
    assert (out / "pictures" / "ap_vs_steps.png").stat().st_size > 10_000

    before = sorted(p for p in out.rglob("*") if p.is_file())
    (tmp_path / "demo-2").mkdir()
    write_json(tmp_path / "demo-2" / "notes.json", {})
    chosen, note = choose_folder(out, {"seeds": 7})
    assert chosen == tmp_path / "demo-3"
    assert "kept" in note
    assert sorted(p for p in out.rglob("*") if p.is_file()) == before


@pytest.mark.slow
def test_miniature_run_on_a_users_folder(tmp_path, capsys):
    """One object per image, and classes of the user's own."""
    for seed, (split, count) in enumerate(NUM_IMAGES.items()):
        file = write_coco(tmp_path / "mine", split, count, seed, num_shapes=(1, 1))
        content = json.loads(file.read_text())
        for category in content["categories"]:
            category["name"] = f"my {category['name']}"
        for annotation in content["annotations"]:  # as many programs write them
            del annotation["iscrowd"]
            annotation["area"] = 0
        file.write_text(json.dumps(content))
    out = run_demo(ShapesWorld(tmp_path / "mine"), CONFIGS, tmp_path / "out", overrides=OVERRIDES)
    assert "read the differences" in capsys.readouterr().out
    (result,) = json.loads((out / RESULTS).read_text())
    assert result["before"].keys() == {*METRICS_SHOWN, "ms per image"}
    assert (out / "pictures" / "ap_vs_steps.png").exists()
    log = (out / "console.log").read_text()
    assert "my ellipse" in log
    assert "ShapesDataset" not in log


def test_one_object_is_enough_for_every_picture(tmp_path):
    truth = np.array([10.0, 12, 40, 44])
    path = np.linspace(truth + 4, truth + 1, 11).astype(np.float32)
    image = np.zeros((64, 64, 3), np.uint8)
    climb = Climb(
        image,
        truth.astype(np.float32),
        path,
        iou=np.linspace(0.7, 0.9, 11),
        log_density=lambda u: -u.square().sum(1),
        number=0,
    )
    draw_all([climb], tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"before_after.png", "paths.png", "density.png"}


def test_folder_messages_name_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="no folder.*nowhere.*annotations/train.json"):
        check_folder(tmp_path / "nowhere")
    write_coco(tmp_path, "train", 2, seed=0)
    with pytest.raises(DataError, match=r"val\.json is missing"):
        check_folder(tmp_path)
    val = write_coco(tmp_path, "val", 2, seed=1)
    data = check_folder(tmp_path)
    assert (data.classes, data.generated) == (("ellipse", "polygon", "star"), False)

    (tmp_path / "images" / "val_00001.png").unlink()
    with pytest.raises(DataError, match=r"1 of the 2 images.*val_00001\.png"):
        check_folder(tmp_path)
    content = json.loads(val.read_text())
    val.write_text(json.dumps({**content, "images": content["images"][:1]}))
    check_folder(tmp_path)
    val.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(DataError, match="'annotations'"):
        check_folder(tmp_path)
    for part, key, wrong in (
        ("images", "id", "1"),
        ("images", "height", None),
        ("annotations", "image_id", "1"),
        ("annotations", "bbox", [1, 2]),
    ):
        first = {**content[part][0], key: wrong}
        val.write_text(json.dumps({**content, part: [first, *content[part][1:]]}))
        with pytest.raises(DataError, match=rf"val\.json: {part}\[0\].*'{key}' is"):
            check_folder(tmp_path)
    val.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        check_folder(tmp_path)


def test_categories_must_agree(tmp_path):
    write_coco(tmp_path, "train", 1, seed=0)
    val = write_coco(tmp_path, "val", 1, seed=1)

    def write_val(content) -> Path:
        val.write_text(json.dumps(content))
        return tmp_path

    content = json.loads(val.read_text())
    content["categories"][0]["name"] = "pear"
    write_val(content)
    with pytest.raises(DataError, match="differ are ellipse .train. and pear"):
        check_folder(tmp_path)
    content["categories"][0]["name"] = "ellipse"
    check_folder(write_val(content))
    for categories, message in (
        # mmdet numbers classes in the order of the file, so this would swap labels silently.
        (content["categories"][::-1], "same order; .* ellipse .train. and star"),
        (content["categories"][:2], "star .train. and None"),
    ):
        with pytest.raises(DataError, match=message):
            check_folder(write_val({**content, "categories": categories}))


def _results(*gains):
    before = {**dict.fromkeys(("AP", "AP50", "AP75", "AP90"), 70.0), "mean IoU": 0.8}
    before["ms per image"] = 10.0
    return [{"before": before, "after": {k: v + g for k, v in before.items()}} for g in gains]


def test_spread_is_that_of_paired_differences():
    (name, before, after, difference), *_ = report.rows(_results(1.0, 3.0))
    assert (name, before, after) == ("AP", "70.0 ± 0.0", "72.0 ± 1.4")
    assert difference == "+2.0 ± 1.4"
    assert report.rows(_results(-0.5))[0][3] == "-0.5"


def test_results_page_says_what_it_ran_on(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    above, _ = ShapesWorld().page(_results(1.0, 3.0))
    assert above.startswith("`make demo SEEDS=2`, 7 CPU threads, mean")
    table = report.markdown_table(_results(1.0, 3.0))
    assert "| AP | 70.0 ± 0.0 | 72.0 ± 1.4 | +2.0 ± 1.4 |" in table


def test_command_line_turns_bad_data_into_one_line(tmp_path):
    tool = load_tool("demo")
    with pytest.raises(SystemExit, match="demo: there is no folder"):
        tool.main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        tool.parse_args(["--seeds", "0"])


def test_a_page_is_asked_for_and_refused_before_any_work(tmp_path, capsys):
    page = tmp_path / "results.md"
    tool = load_tool("demo")
    assert tool.parse_args([]).page is None
    assert tool.parse_args(["--seeds", "3", "--page"]).page == ROOT / "docs" / "results.md"
    for arguments, message in (
        (["--page", str(page)], "add --seeds 3"),
        (["--page", str(page), "--seeds", "3", "--data", "mine"], "not for --data mine"),
    ):
        with pytest.raises(SystemExit):
            tool.parse_args(arguments)
        assert message in capsys.readouterr().err
    for options in (dict(num_seeds=1), dict(num_seeds=2, overrides=OVERRIDES)):
        with pytest.raises(ValueError, match=r"results\.md shows the spread over several seeds"):
            run_demo(ShapesWorld(), CONFIGS, tmp_path / "out", page=page, **options)
    few = ShapesWorld(num_images=NUM_IMAGES)
    with pytest.raises(ValueError, match="'train': 4"):
        run_demo(few, CONFIGS, tmp_path / "out", num_seeds=2, page=page)
    assert not page.exists()
    assert not (tmp_path / "out").exists()


def test_a_page_gets_the_table_of_a_run(tmp_path, monkeypatch):
    page = tmp_path / "results.md"
    page.write_text("Before.\n<!-- demo:begin -->\nold\n<!-- demo:end -->\nAfter.\n")
    world = ShapesWorld()
    monkeypatch.setattr(world, "prepare", lambda *_: None)
    monkeypatch.setattr(world, "draw_steps", lambda *_: None)
    measured = _results(1.0, 3.0)
    monkeypatch.setattr(run_module, "_run_seed", lambda *arguments: measured[arguments[3]])
    run_demo(world, CONFIGS, tmp_path / "out", num_seeds=2, page=page)
    text = page.read_text()
    assert text.startswith("Before.\n<!-- demo:begin -->\n`make demo SEEDS=2`")
    assert "| AP | 70.0 ± 0.0 | 72.0 ± 1.4 | +2.0 ± 1.4 |" in text
    assert text.endswith("included.\n<!-- demo:end -->\nAfter.\n")


def test_a_page_is_filled_in_from_a_finished_run(tmp_path, monkeypatch, capsys):
    """Nothing is trained again: a page that was forgotten costs a second, not half an hour."""
    world, out = ShapesWorld(), tmp_path / "out"
    measured = [dict(result, threads=7) for result in _results(1.0, 3.0)]
    write_json(out / SETTINGS, {"seeds": 2, "overrides": {}, **world.settings()})
    write_json(out / RESULTS, measured)
    page = tmp_path / "results.md"
    page.write_text("<!-- demo:begin -->\nold\n<!-- demo:end -->\n")

    def train(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(run_module, "_run_seed", train)
    assert run_demo(world, CONFIGS, out, num_seeds=2, page=page) == out
    assert "`make demo SEEDS=2`, 7 CPU threads" in page.read_text()
    assert "from the finished run" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == [out, page]

    monkeypatch.setattr(world, "prepare", train)  # of other settings: a run of its own
    with pytest.raises(AssertionError, match="trained again"):
        run_demo(world, CONFIGS, out, num_seeds=3, page=page)


def test_2d_imports_nothing_of_3d():
    """Demo, studies, pictures and 1D run where mmdet3d is not installed."""
    code = """
import sys, pkgutil, importlib
sys.modules["mmdet3d"] = sys.modules["ebm_mmdet3d"] = None  # an import of these fails
import lab
only_3d = (
    "lab.demo.lidar", "lab.studies.intervals_3d", "lab.studies.jittered_boxes", "lab.benchmarks"
)
for module in pkgutil.walk_packages(lab.__path__, "lab."):
    if not module.name.startswith(only_3d):
        importlib.import_module(module.name)
"""
    paths = os.pathsep.join(str(ROOT / folder) for folder in (".", "ops", "tools"))
    env = {**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_object_takes_the_best_detection_left():
    overlaps = np.array([[0.9, 0.7, 0.0], [0.95, 0.6, 0.0], [0.0, 0.0, 0.49], [0.5, 0.5, 0.5]])
    assert list(first_matches(overlaps)) == [(0, 0), (1, 1), (3, 2)]
    assert list(first_matches(np.zeros((2, 0)))) == []
    assert overlaps[0, 0] == 0.9  # not changed
