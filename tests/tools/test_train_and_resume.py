"""An interrupted training loses nothing before its last checkpoint, and continues from there."""

import importlib.util
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from mmengine.config import Config, ConfigDict

from ebm_mmdet.engine import CheckpointError  # (also allows loading training checkpoints)
from tests.tools.tools_support import REPO, environment, run

TRAIN = [sys.executable, "tools/train.py"]
ENDLESS = ["--cfg-options", "train_cfg.max_iters=100000"]


def iterations(work_dir):
    return sorted(int(path.stem.removeprefix("iter_")) for path in work_dir.glob("iter_*.pth"))


def start_and_stop(config, work_dir, how):
    """Train without end, stop by a signal after the checkpoint of iteration 4; (status, text)."""
    process = subprocess.Popen(
        [*TRAIN, str(config), "--work-dir", str(work_dir), *ENDLESS],
        cwd=REPO,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Jobs in the background inherit that Ctrl-C is ignored; at a terminal it is not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 200
    try:
        while not (work_dir / "iter_4.pth").exists():
            assert process.poll() is None, process.communicate()[0][-3000:]
            assert time.monotonic() < deadline, "no checkpoint within 200 s"
            time.sleep(0.02)
        process.send_signal(how)
        text, _ = process.communicate(timeout=100)
    finally:
        process.kill()  # an endless training must not outlive a failed test
    return process.returncode, text


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_interrupted_training_resumes(tiny_config, tmp_path, how):
    work_dir = tmp_path / "work"
    status, text = start_and_stop(tiny_config, work_dir, how)
    if how == signal.SIGINT:
        assert status == 130, text[-3000:]
        assert "--resume" in text.splitlines()[-1]
    else:
        assert status == -signal.SIGKILL

    saved = iterations(work_dir)
    assert {2, 4} <= set(saved)
    for iteration in saved:  # every file that has a checkpoint's name is whole
        torch.load(work_dir / f"iter_{iteration}.pth", weights_only=True, map_location="cpu")
    newest = saved[-1]
    # At most two iterations, the interval of checkpoints, plus the one that was running.
    done = max(int(number) for number in re.findall(r"Iter\(train\) \[ *(\d+)/", text))
    assert newest >= done - 2

    # As a file cut off by a crash of the machine would be.
    (work_dir / "iter_99999.pth").write_bytes(b"PK\x03\x04 not a checkpoint")
    (work_dir / ".iter_6.pth.abc123.partial").write_bytes(b"PK")  # killed while writing
    final = newest + 4
    finished = run(
        *TRAIN,
        tiny_config,
        "--work-dir",
        work_dir,
        "--resume",
        "--cfg-options",
        f"train_cfg.max_iters={final}",
    )
    assert finished.returncode == 0, finished.stdout[-3000:]
    assert f"Resuming from {work_dir / f'iter_{newest}.pth'}" in finished.stdout
    first = re.search(r"Iter\(train\) \[ *(\d+)/", finished.stdout).group(1)
    assert int(first) == newest + 1
    assert iterations(work_dir)[-2:] == [final, 99999]
    assert not list(work_dir.glob(".*"))
    state = torch.load(work_dir / f"iter_{final}.pth", weights_only=True, map_location="cpu")
    assert state["meta"]["iter"] == final
    assert state["optimizer"]["state"]


class Strange:
    """A type that is refused in checkpoints."""


def test_an_unreadable_checkpoint_stops_resuming_and_everything_is_kept(
    tiny_config, trained, tmp_path
):
    work_dir = tmp_path / "work"
    work_dir.mkdir()
    (work_dir / "iter_1.pth").write_bytes(trained.checkpoint.read_bytes())
    state = torch.load(trained.checkpoint, weights_only=True)
    assert isinstance(state["meta"]["dataset_meta"]["source"], ConfigDict)
    torch.save({**state, "strange": Strange()}, work_dir / "iter_2.pth")
    before = {path.name: path.read_bytes() for path in work_dir.iterdir()}
    done = run(*TRAIN, tiny_config, "--work-dir", work_dir, "--resume")
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"train: {work_dir / 'iter_2.pth'} was not read")
    assert "test_train_and_resume.Strange" in last
    assert "add_safe_globals" in last
    assert {path.name: path.read_bytes() for path in work_dir.iterdir()} == before


def test_the_configs_own_resume_does_not_take_unreadable_for_absent(trained, tmp_path):
    spec = importlib.util.spec_from_file_location("train_tool", REPO / "tools" / "train.py")
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    args = train.parse_args(["c.py"])
    cfg = Config(dict(resume=True, load_from=None, work_dir=str(trained.checkpoint.parent)))
    train.apply_arguments(cfg, args)
    assert cfg.load_from == str(trained.checkpoint)
    (tmp_path / "iter_1.pth").write_bytes(b"PK")
    cfg = Config(dict(resume=True, load_from=None, work_dir=str(tmp_path)))
    with pytest.raises(CheckpointError, match="is whole"):
        train.apply_arguments(cfg, args)


def test_nothing_to_resume_starts_from_the_beginning(trained):
    assert "starting from the beginning" in trained.log
    assert iterations(trained.checkpoint.parent) == [2]


def test_a_second_training_does_not_write_over_the_first(tiny_config, trained):
    before = trained.checkpoint.read_bytes()
    done = run(*TRAIN, tiny_config, "--work-dir", trained.checkpoint.parent)
    assert done.returncode == 1
    assert "iter_2.pth is of an earlier training" in done.stdout.splitlines()[-1]
    assert trained.checkpoint.read_bytes() == before
