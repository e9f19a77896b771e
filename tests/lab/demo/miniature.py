"""The part that the tests of both demos share: a run that is interrupted and continued."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import lab.demo.run as run_module

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs" / "demo"


def load_tool(name: str):
    """The module of tools/NAME.py."""
    spec = importlib.util.spec_from_file_location(Path(name).name, ROOT / "tools" / f"{name}.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def run_twice(world, out: Path, overrides: dict, monkeypatch, capsys) -> str:
    """Interrupt a run before its head is trained, run it again; returns the second screen."""
    real = run_module.train_stage

    def interrupted_at_the_head(cfg, name, say):
        if "head" in name:
            raise KeyboardInterrupt
        return real(cfg, name, say)

    monkeypatch.setattr(run_module, "train_stage", interrupted_at_the_head)
    with pytest.raises(KeyboardInterrupt):
        run_module.run_demo(world, CONFIGS, out, overrides=overrides)
    detector = out / "seed0" / "detector" / "iter_2.pth"
    written = detector.stat().st_mtime_ns
    monkeypatch.setattr(run_module, "train_stage", real)
    capsys.readouterr()

    assert run_module.run_demo(world, CONFIGS, out, overrides=overrides) == out
    screen = capsys.readouterr().out
    assert detector.stat().st_mtime_ns == written
    assert "going on with the unfinished run" in screen
    assert "trained already" in screen
    for noise in ("mmengine", "elapsed"):  # calm: the libraries' logs are in a file
        assert noise not in screen
    assert "mmengine" in (out / "console.log").read_text()
    return screen
