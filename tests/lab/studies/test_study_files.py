"""Study files: rows and their options, the studies of the repository, and the command."""

from __future__ import annotations

import copy
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

import ebm_mmdet  # noqa: F401
from lab.studies import METRICS, StudyFileError, StudySettings, commands, read_study
from lab.studies.commands import _settings
from lab.studies.study_file import apply_options, folder_name, move_data

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
STUDIES = sorted(CONFIGS.glob("*/*_study.yaml"))
ROWS = [
    pytest.param(path, row["name"], id=f"{path.parent.name}-{path.stem}-{row['name']}")
    for path in STUDIES
    for row in yaml.safe_load(path.read_text())["rows"]
]


@pytest.fixture(scope="module", autouse=True)
def _registered():
    register_all_modules()


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@pytest.fixture
def write(tmp_path):
    """Write a study file beside a tiny config, and return its path."""
    (tmp_path / "base.py").write_text(
        "data_root = 'data/mine/'\n"
        "model = dict(refiner=dict(type='GradientAscentRefiner', step_size=1e-4, num_steps=10))\n"
        "param_scheduler = [dict(type='LinearLR', end=5)]\n"
        "val = dict(root=data_root, files=(data_root + 'a.json', 'data/mine2/b.json'))\n"
    )

    def to(text: str) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return to


@pytest.mark.parametrize(("path", "name"), ROWS)
def test_every_row_builds_and_differs_from_what_it_is_trained_as_in_the_test_only(path, name):
    study = read_study(path, only=[name])
    (row,) = study.rows
    cfg, trained = study.cfgs[name], study.cfgs[row.detector]
    MODELS.build(copy.deepcopy(cfg.model))
    if not row.trained_as:
        return
    wrapped = cfg.model.type == "EBMDetector" != trained.model.type
    tested = copy.deepcopy(cfg.model.detector if wrapped else cfg.model).to_dict()
    trained = copy.deepcopy(trained.model).to_dict()
    for model in (tested, trained):
        model.pop("test_cfg", None)
        model.pop("refiner", None)
        model.get("backbone", {}).pop("init_cfg", None)
    assert tested == trained


def test_the_rows_of_kl_loss_have_the_numbers_of_its_recipe():
    def recipe(name: str):
        return Config.fromfile(CONFIGS / "kl_loss" / f"faster_rcnn_r50_fpn_{name}.py").model

    rows = ["KL-Loss, voting", "KL-Loss, voting, soft-NMS", "KL-Loss, voting, energy head"]
    wanted, soft = recipe("2x_coco_kl_varvote"), recipe("2x_coco_kl_varvote_softnms")
    for folder in ("demo", "nuclei"):
        cfgs = read_study(CONFIGS / folder / "kl_study.yaml", only=rows).cfgs
        voting, voting_soft, both = (cfgs[name].model for name in rows)
        for model in (voting, both.detector):
            for key in ("type", "bbox_coder", "loss_bbox"):
                assert plain(model.roi_head.bbox_head[key]) == plain(wanted.roi_head.bbox_head[key])
            assert model.test_cfg.rcnn == wanted.test_cfg.rcnn
        assert voting_soft.test_cfg.rcnn == soft.test_cfg.rcnn
        assert both.refiner == recipe("kl_nceplus").refiner


def plain(value: object) -> object:
    """Without the difference of lists and tuples."""
    return json.loads(json.dumps(value))


def test_a_row_is_its_config_with_its_options(write):
    study = read_study(
        write(
            "rounds: 3\n"
            "cfg_options: {param_scheduler.0.end: 7}\n"
            "rows:\n"
            "- {name: A, config: base.py}\n"
            "- name: B, with more\n"
            "  config: base.py\n"
            "  trained_as: A\n"
            "  note: because\n"
            "  cfg_options:\n"
            "    model.refiner: {num_steps: 3, decay: 0.25}\n"  # decay: an argument, not in base.py
            "- name: C\n"
            "  config: base.py\n"
            "  cfg_options:\n"
            "    model.refiner: {_delete_: true, type: Other, anything: 1}\n"
        ),
        cfg_options={"model.refiner.type": "Third"},
    )
    assert [row.name for row in study.rows] == ["A", "B, with more", "C"]
    assert folder_name("B, with more") == "b_with_more"
    assert study.rows[1].detector == "A"
    a, b, c = (study.cfgs[row.name] for row in study.rows)
    assert dict(a.model.refiner) == dict(type="Third", step_size=1e-4, num_steps=10)
    assert dict(b.model.refiner) == dict(type="Third", step_size=1e-4, num_steps=3, decay=0.25)
    assert dict(c.model.refiner) == dict(type="Third", anything=1)
    assert {cfg.param_scheduler[0].end for cfg in (a, b, c)} == {7}
    assert study.settings == {"rounds": 3}


ROW = "rows:\n- {name: A, config: base.py"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: 3", "no list of rows"),
        ("rows: [", "not valid YAML"),
        (f"round: 3\n{ROW}}}", "a key 'round'; did you mean 'rounds'"),
        (f"{ROW}, trainedas: B}}", "row 'A' has a key 'trainedas'; did you mean 'trained_as'"),
        ("rows:\n- {name: A}", "has no 'config'"),
        (f"{ROW}, trained_as: AA}}", "trained_as of row 'A' is 'AA'; did you mean 'A'"),
        (f"{ROW}}}\n- {{name: a, config: base.py}}", "two rows share the folder 'a'"),
        (
            f"{ROW}, cfg_options: {{model.refiner.num_stepz: 3}}}}",
            "row 'A': model.refiner.num_stepz: model.refiner has no 'num_stepz'; "
            "did you mean 'num_steps'",
        ),
        (
            f"{ROW}, cfg_options: {{model.refiner: {{decai: 3}}}}}}",
            "model.refiner.decai: model.refiner has no 'decai'; did you mean 'decay'",
        ),
        (
            f"{ROW}, cfg_options: {{refiner.num_steps: 3}}}}",
            "the config has no 'refiner', and nothing would read it. "
            "Did you mean model.refiner.num_steps?",
        ),
        (f"{ROW}, cfg_options: {{data_root: x}}}}", "'data_root' is a variable of the config file"),
        (f"{ROW}, cfg_options: {{param_scheduler.1.end: 3}}}}", "param_scheduler has no '1'"),
        (f"{ROW}, cfg_options: {{model.refiner.num_steps.x: 3}}}}", "num_steps has no 'x'"),
    ],
)
def test_what_is_wrong_in_a_study_file_is_named(write, text, message):
    with pytest.raises(StudyFileError, match="study.yaml") as found:
        read_study(write(text))
    assert message in str(found.value)


def test_a_refused_option_changes_nothing(write):
    cfg = Config.fromfile(write(ROW).parent / "base.py")
    before = cfg.pretty_text
    with pytest.raises(StudyFileError, match="no 'decai'"):
        apply_options(cfg, {"model.refiner.num_steps": 3, "model.refiner.decai": 1})
    assert cfg.pretty_text == before


def test_data_elsewhere(write):
    cfg = Config.fromfile(write(ROW).parent / "base.py")
    move_data(cfg, "/my data")
    assert cfg.data_root == "/my data/"
    assert dict(cfg.val) == dict(root="/my data/", files=("/my data/a.json", "data/mine2/b.json"))
    cfg.pop("data_root")
    with pytest.raises(StudyFileError, match="no variable data_root"):
        move_data(cfg, "elsewhere")


def test_command_line_before_study_file_before_defaults(write):
    study = read_study(write(f"rounds: 3\nboxes: 8\n{ROW}}}"))
    found = _settings(study, rivals=["kl"], given={"rounds": 5, "seeds": [4]})
    assert found == StudySettings(seeds=(4,), rounds=5, boxes_per_iteration=8, rivals=("kl",))


def test_the_command_turns_mistakes_into_one_line(write, tmp_path, capsys, monkeypatch):
    tool, path = load_tool("study"), write(f"{ROW}}}\n- {{name: B, config: base.py}}")
    out = ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"study refinement: .*is about one; .*--rows 'A'"):
        tool.main(["refinement", str(path), *out])
    with pytest.raises(SystemExit, match=r"study objectives: .*--rows is 'AB'; did you mean"):
        tool.main(["objectives", str(path), "--rows", "AB", *out])
    with pytest.raises(SystemExit, match="study config: there is no file nowhere.yaml"):
        tool.main(["config", "nowhere.yaml", "A", *out])
    monkeypatch.chdir(tmp_path)
    one = [str(path), "--rows", "A", *out]
    with pytest.raises(SystemExit, match="row 'A': there is no folder data/mine/ .*--data-root"):
        tool.main(["refinement", *one])
    with pytest.raises(SystemExit, match="there is no file none.pth with the weights"):
        tool.main(["refinement", *one, "--data-root", ".", "--cfg-options", "load_from=none.pth"])
    for arguments, message in (
        (["detectors", str(path), *out, "--page"], "--page and --section must be given together"),
        (["detectors", str(path), *out, "--prior-k", "1"], "unrecognized arguments"),
        (["jittered", "c.py", "k.pth", "--out", str(path)], "exists; name a new file"),
        (["refinement", str(path), *out, "--rivals", "l2"], "invalid choice: 'l2'"),
        (["refinement", str(path), *out, "--rivals", "l1", "--no-rivals"], "not allowed with"),
        ([], "required: STUDY"),
    ):
        with pytest.raises(SystemExit):
            tool.parse_args(arguments)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_row_is_written_as_a_config_that_can_be_trained(write, tmp_path, capsys):
    path = write(f"{ROW}, cfg_options: {{model.refiner.num_steps: 3}}}}")
    arguments = ["config", str(path), "A", "--out", str(tmp_path / "row.py")]
    load_tool("study").main(arguments)
    with pytest.raises(SystemExit):
        load_tool("study").main(arguments)
    assert "exists; name a new file" in capsys.readouterr().err
    assert Config.fromfile(tmp_path / "row.py").model.refiner.num_steps == 3


def test_the_command_measures_prints_and_fills_a_page(write, tmp_path, capsys, monkeypatch):
    path, page, asked = write(f"rounds: 3\n{ROW}}}"), tmp_path / "page.md", []
    row = dict(recipe="A", method="rule", training_s=2.0, first_loss=3.0, last_loss=1.0, cost=1.0)
    for metric in METRICS:
        row |= {metric: 50.0, f"change_{metric}": 1.0, f"error_{metric}": 0.5}

    monkeypatch.chdir(tmp_path)
    Path("data/mine").mkdir(parents=True)

    def measured(cfgs, out, settings, say):
        asked.append((list(cfgs), out, settings))
        say("one line")
        return dict(settings=asdict(settings), threads=1, rows=[row])

    monkeypatch.setattr(commands, "compare_recipes", measured)
    arguments = ["objectives", str(path), "--out", "folder", "--seeds", "4", "--resamples", "9"]
    monkeypatch.setattr("sys.argv", ["study.py", *arguments])
    load_tool("study").main([*arguments, "--page", str(page), "--section", "mine"])
    settings = StudySettings(seeds=(4,), rounds=3, resamples=9)
    assert settings.rivals == ("l1", "kl")
    assert asked == [(["A"], Path("folder"), settings)]
    shown, written = capsys.readouterr().out, page.read_text()
    assert "one line" in shown
    for text in (shown, written):
        assert "| **A**, rule | 50.00 (+1.00 ± 0.50) |" in text
        assert "Head seeds 4; 3 augmented versions per training image" in text
    assert "<!-- mine:begin -->\n`python tools/study.py objectives" in written
