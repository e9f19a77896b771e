"""--cfg-options: options with an effect are applied, others are refused, by both tools."""

from __future__ import annotations

import argparse
import sys
import types

import pytest
from mmengine.config import Config

from ebm_mmdet.engine.command_line import add_common_arguments, load_config
from ebm_mmdet.engine.config_options import UsageError, merge_options, parse_options
from tests.tools.tools_support import run

MODEL = dict(
    type="EBMDetector",
    detector=dict(type="RetinaNet", backbone=dict(depth=50)),
    energy_head=dict(fc_channels=[1024, 1024], pool_size=7),
    refiner=dict(num_steps=10, step_size=[0.1, 0.2]),
)


def config() -> Config:
    """With variables that were used for the model and stay in the config."""
    return Config(
        dict(
            model=MODEL,
            energy_head=MODEL["energy_head"],
            refiner=MODEL["refiner"],
            detector=MODEL["detector"],
            max_iters=9,
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=9),
            param_scheduler=[dict(type="LinearLR", end=5)],
            dataset_type="CocoDataset",
            train_dataloader=dict(dataset=dict(type="CocoDataset", data_root="x")),
        )
    )


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("refiner.num_steps", "model.refiner.num_steps"),
        ("energy_head.fc_channels", "model.energy_head.fc_channels"),
        ("detector.backbone.depth", "model.detector.backbone.depth"),
        ("refiner.new_option", "model.refiner.new_option"),
        ("refiner", "model.refiner"),
        ("num_steps", "model.refiner.num_steps"),
        ("max_iters", "train_cfg.max_iters"),
        ("schedule.max_iters", "train_cfg.max_iters"),
        ("data_root", "train_dataloader.dataset.data_root"),
        ("end", "param_scheduler.0.end"),
        ("modle.refiner.num_stepz", "model.refiner.num_stepz"),
        ("optim_wraper.optimizer.lr", "optim_wrapper.optimizer.lr"),
    ],
)
def test_a_leftover_variable_is_refused_and_the_path_that_counts_is_named(option, meant):
    cfg = config()
    before = cfg.pretty_text
    with pytest.raises(UsageError, match=rf"^--cfg-options {option}=3: no effect") as raised:
        merge_options(cfg, {option: 3})
    assert f"Did you mean {meant}?" in str(raised.value)
    assert cfg.pretty_text == before


def test_a_variable_of_another_name_is_found_by_its_content():
    cfg = config()
    cfg.schedule = cfg.param_scheduler
    cfg.ebm = dict(head=MODEL["energy_head"], climb=MODEL["refiner"], lr=dict(base=1))
    for option, meant in (
        ("ebm.head.fc_channels", "model.energy_head.fc_channels"),
        ("ebm.climb.new", "model.refiner.new"),
        ("ebm.climb", "model.refiner"),
        ("schedule.0.begin", "param_scheduler.0.begin"),
        ("schedule", "param_scheduler"),
    ):
        with pytest.raises(UsageError) as raised:
            merge_options(cfg, {option: 3})
        assert f"Did you mean {meant}?" in str(raised.value)
    with pytest.raises(UsageError) as raised:
        merge_options(cfg, {"ebm.lr.type": 3})
    assert "Did you mean" not in str(raised.value)


def test_nothing_similar_is_said_without_a_guess():
    with pytest.raises(UsageError, match="nothing would read it") as raised:
        merge_options(config(), {"xyzzy.plugh": 1})
    assert "Did you mean" not in str(raised.value)


@pytest.mark.parametrize(
    "option",
    [
        "model.refiner.num_steps",
        "param_scheduler.0.end",
        "train_dataloader.dataset.data_root",
        "load_from",
        "resume",
        "work_dir",
        "randomness.seed",
        "default_scope",
        "env_cfg.dist_cfg.backend",
        "auto_scale_lr.base_batch_size",
        "find_unused_parameters",
        "model_wrapper_cfg.type",
        "tta_model.type",
        "custom_hooks",
        "log_level",
        "visualizer.name",
        "default_hooks.checkpoint.interval",
    ],
)
def test_what_a_run_reads_is_applied_whether_it_is_there_or_not(option):
    cfg = config()
    merge_options(cfg, {option: "new"})
    value = cfg
    for key in option.split("."):
        value = value[int(key)] if key.isdigit() else value[key]
    assert value == "new"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("param_scheduler.end=7", "param_scheduler is a list of 1, and 'end' is no position in it"),
        ("param_scheduler.1.end=7", r"param_scheduler is a list of 1, and '1' is no position"),
        ("model.refiner.step_size.2=7", r"model\.refiner\.step_size is a list of 2"),
        ("model.refiner.step_size.2.x=7", r"model\.refiner\.step_size is a list of 2"),
    ],
)
def test_a_place_that_a_list_does_not_have_is_named(option, message):
    with pytest.raises(UsageError, match=rf"--cfg-options {option.partition('=')[0]}: {message}"):
        merge_options(config(), parse_options([option]))
    with pytest.raises(UsageError, match="not to be merged into the config: "):
        merge_options(config(), {"model": 3, "model.refiner.num_steps": 4})


VALUES = {
    "my runs/a (1)": "my runs/a (1)",
    "'my runs/a'": "my runs/a",
    "  7 ": 7,
    "1e-4": 1e-4,
    "None": None,
    "true": True,
    "a b, c d": ["a b", "c d"],
    "[ 1, 2 ]": [1, 2],
    "[my runs/a (1), 'c d']": ["my runs/a (1)", "c d"],
    "[(a b, 1), [2, None]]": [("a b", 1), [2, None]],
    "(1, 2)": (1, 2),
    "a=b c": "a=b c",
}


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_values_keep_their_blanks(text, value):
    """mmengine writes the results of work_dir='my runs' to 'myruns'."""
    assert parse_options([f"work_dir={text}"]) == {"work_dir": value}
    parser = argparse.ArgumentParser()
    add_common_arguments(parser)
    assert parser.parse_args(["c.py", "--cfg-options", f"k={text}"]).cfg_options == {"k": value}


@pytest.mark.parametrize("pairs", [["a"], ["a.b=1", "epoch_12.pth"]])
def test_an_argument_that_is_no_option_ends_the_command(pairs, capsys):
    """A checkpoint behind --cfg-options is taken for one of them."""
    parser = argparse.ArgumentParser()
    add_common_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["c.py", "--cfg-options", *pairs])
    assert f"--cfg-options {pairs[-1]}: expected KEY=VALUE" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parser.parse_args(["c.py", "--cfg-options", "a=[1,(2]"])
    assert "--cfg-options: Imbalanced brackets exist" in capsys.readouterr().err


def test_keys_of_the_calling_tool_and_of_another_runner():
    cfg = config()
    merge_options(cfg, {"fit_dataset.type": "x"}, read={"fit_dataset"})
    assert cfg.fit_dataset.type == "x"
    with pytest.raises(UsageError):
        merge_options(config(), {"strategy.type": "x"})
    cfg = config()
    merge_options(cfg, {"strategy.type": "x", "runner_type": "FlexibleRunner"})
    assert cfg.strategy.type == "x"
    cfg = config()
    cfg.runner_type = "FlexibleRunner"
    merge_options(cfg, {"strategy.type": "y"})
    assert cfg.strategy.type == "y"


def test_imports_of_the_command_line_are_made(monkeypatch, tmp_path):
    (tmp_path / "imported_by_option.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    merge_options(config(), {"custom_imports": dict(imports=["imported_by_option"])})
    assert isinstance(sys.modules.pop("imported_by_option"), types.ModuleType)


@pytest.mark.parametrize("tool", ["train", "test"])
def test_both_tools_refuse_in_one_line(tool, tiny_config, tmp_path):
    checkpoint = tmp_path / "x.pth"
    checkpoint.touch()
    arguments = [tiny_config, *([checkpoint] if tool == "test" else [])]
    done = run(
        *(sys.executable, f"tools/{tool}.py", *arguments, "--work-dir", tmp_path / "work"),
        *("--cfg-options", "detector.neck.out_channels=3"),
    )
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"{tool}: --cfg-options detector.neck.out_channels=3: no effect")
    assert "Did you mean model.detector.neck.out_channels?" in last
    assert not (tmp_path / "work").exists()


def test_a_recipe_of_mmdet():
    args = types.SimpleNamespace(
        config="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
        cfg_options={"model.bbox_head.num_classes": 2, "train_dataloader.batch_size": 1},
        local_rank=0,
        launcher="none",
        work_dir=None,
    )
    cfg = load_config(args)
    assert cfg.model.bbox_head.num_classes == 2
    args.cfg_options = {"data_root": "elsewhere/"}
    with pytest.raises(UsageError, match=r"data_root.*train_dataloader\.dataset\.data_root"):
        load_config(args)
