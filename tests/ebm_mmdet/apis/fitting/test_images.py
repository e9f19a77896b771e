"""What a fit knows of images, beside what the tests of its steps cover."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from mmengine.config import Config

from ebm_mmdet.apis.fitting.images import Images


def cfg_with(*steps):
    return Config(dict(train_dataloader=dict(dataset=dict(pipeline=list(steps)))))


@pytest.mark.parametrize(
    ("steps", "flips"),
    [
        ((), None),
        ((dict(type="mmdet.RandomFlip", prob=0.5),), "model.flips=[horizontal]"),
        (
            (dict(type="RandomFlip", prob=[0.3, 0.3], direction=["vertical", "horizontal"]),),
            "model.flips=[horizontal,vertical]",
        ),
    ],
)
def test_the_commands_of_the_page_can_be_pasted_into_a_shell(steps, flips):
    """Each word is one argument, also of a path with blanks; flips are those of the training."""
    config, checkpoint = Path("my work/a_ebm.py"), Path("my work/a_ebm.pth")
    lines = Images().commands(config, checkpoint, cfg_with(*steps))
    words = [shlex.split(line, comments=True) for line in lines if not line.startswith("#")]
    assert all(str(config) in line and str(checkpoint) in line for line in words)
    assert [line[:2] for line in words[:2]] == [["python", "tools/test.py"], ["python", "-m"]]
    assert [line[4:] for line in words[2:]] == ([["--cfg-options", flips]] if flips else [])
