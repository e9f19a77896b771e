"""A fit that is killed while it trains, tunes and judges: the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ebm_mmdet import commands
from ebm_mmdet.apis.fitting.judging import Judging
from ebm_mmdet.apis.fitting.training import HeadTraining
from ebm_mmdet.files import read_json
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project

COMMAND = ["fit", "my_detector.py", "epoch_12.pth", "--device", "cpu", "--minutes", "100"]
COMMAND += ["--max-iters", "6"]  # these end it, not the minutes: the machine of a test may be slow

KILLED = """
import os, signal, sys
from ebm_mmdet import commands
from ebm_mmdet.apis.fitting import compared, judging, training
training.SAVE_SECONDS = judging.SECONDS_PER_FILE = 0  # else half a minute is lost
where, survived = sys.argv[1], int(sys.argv[2])
part, name = {
    "training": (training.HeadTraining, "_step"),
    "tuning": (compared.Compared, "add"),
    "judging": (judging.Judging, "_judge"),
}[where]
real, calls = getattr(part, name), []

def counted(self, *arguments):
    if len(calls) == survived:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(1)
    return real(self, *arguments)

setattr(part, name, counted)
sys.exit(commands.main(sys.argv[3:]))
"""


def killed(where: str, survived: int) -> None:
    root = Path(__file__).parents[4]
    paths = os.pathsep.join([str(root), str(root / "ops"), os.environ.get("PYTHONPATH", "")])
    call = [sys.executable, "-c", KILLED, where, str(survived), *COMMAND]
    done = subprocess.run(
        call, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow
def test_killed_while_training_tuning_and_judging(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(make_project(tmp_path / "my work", ONE_STAGE))
    folder = tmp_path / "my work" / "my_detector_fit"
    killed("training", survived=3)
    assert torch.load(folder / "training.pth", weights_only=True)["iteration"] == 3
    killed("tuning", survived=4)
    assert len(read_json(folder / "compared.json")["settings"]) == 4
    assert not (folder / "tuning.json").exists()
    killed("judging", survived=2)
    assert not (folder / "result.json").exists()
    before = (folder / "training.pth").read_bytes()

    steps, judged = [], []
    real = Judging._judge
    monkeypatch.setattr(HeadTraining, "_step", lambda *a: steps.append(1))
    monkeypatch.setattr(Judging, "_judge", lambda *a: judged.append(a[-1]) or real(*a))
    assert commands.main(COMMAND) == 0
    printed = capsys.readouterr().out
    assert "going on in my_detector_fit" in printed
    assert "trained already, 6 iterations" in printed
    assert "tuned already" in printed
    assert not steps
    assert len(judged) == 1  # of three images
    assert (folder / "training.pth").read_bytes() == before
    results = [read_json(path) for path in sorted(folder.glob("judging/part_*.json"))]
    assert sorted(each["position"] for part in results for each in part) == [0, 1, 2]
    assert read_json(folder / "result.json")["iterations"] == 6


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(make_project(tmp_path, ONE_STAGE))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(HeadTraining, "_step", interrupted)
    assert commands.main(COMMAND) == 130
    printed = capsys.readouterr()
    assert "the same command goes on from there" in printed.out
    assert "interrupted" in printed.err
    assert not (tmp_path / "my_detector_fit" / "result.json").exists()
