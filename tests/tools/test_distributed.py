"""Two gloo processes compute what one process with the double batch computes."""

import sys

import pytest
import torch

import ebm_mmdet  # noqa: F401  (allows loading training checkpoints)
from tests.tools.tools_support import REPO, environment, run


def gradients(work_dir):
    """After one iteration, SGD's momentum is the gradient."""
    state = torch.load(work_dir / "iter_1.pth", weights_only=True, map_location="cpu")
    return [slot["momentum_buffer"] for slot in state["optimizer"]["state"].values()]


def test_gradients_of_two_processes_equal_the_double_batch(tiny_config, tmp_path):
    once = ("--cfg-options", "train_cfg.max_iters=1", "default_hooks.checkpoint.interval=1")
    two = run("tools/dist_train.sh", tiny_config, 2, "--work-dir", tmp_path / "two", *once)
    assert two.returncode == 0, two.stdout[-4000:]
    one = run(
        *(sys.executable, "tools/train.py", tiny_config, "--work-dir", tmp_path / "one"),
        *(*once, "train_dataloader.batch_size=2"),
    )
    assert one.returncode == 0, one.stdout[-4000:]
    # The two images hold one and two objects: a mean of the processes' means would differ.
    first, second = gradients(tmp_path / "two"), gradients(tmp_path / "one")
    assert len(first) == len(second) == 4  # weight and bias of the trunk and of the output
    for ours, expected in zip(first, second):
        assert expected.abs().max() > 0
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_two_processes_test_every_image_once(tiny_config, trained, tmp_path):
    lines = []
    for command in (
        (sys.executable, "tools/test.py", tiny_config, trained.checkpoint),
        ("tools/dist_test.sh", tiny_config, trained.checkpoint, 2),
    ):
        tested = run(*command, "--work-dir", tmp_path / "work")
        assert tested.returncode == 0, tested.stdout[-4000:]
        lines.append([x for x in tested.stdout.splitlines() if "bbox AP at IoU" in x][-1])
    assert lines[0].partition("bbox AP")[2] == lines[1].partition("bbox AP")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "usage: tools/dist_train.sh CONFIG"), (["x.py", "0"], "at least 1, got 0")],
    ids=["no config", "no process"],
)
def test_wrong_use_fails(arguments, message):
    wrong = run(REPO / "tools" / "dist_train.sh", *arguments, env=environment())
    assert wrong.returncode == 2
    assert message in wrong.stdout
