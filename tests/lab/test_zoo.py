"""The sweep over a model zoo, on a zoo of four small families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmcv.cnn.bricks.conv_ws import ConvAWS2d
from mmengine.registry import init_default_scope

import lab.zoo
from lab.zoo import families, main, sweep, table
from tests.ebm_mmdet.apis.user_project import DATA, ONE_STAGE

WITHOUT_BOXES = "_base_ = 'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py'\n"
TINY = (
    "model = dict(backbone=dict(depth=18, base_channels=8), neck=dict(in_channels=[8, 16, 32, 64]))"
)
BROKEN = ONE_STAGE.replace("in_channels=[8, 16, 32, 64]", "in_channels=[8, 16, 32, 65]")


@pytest.fixture
def zoo(tmp_path):
    content = dict(
        small={
            "a_first.py": "this is not read",
            "small.py": ONE_STAGE + DATA,
            "metafile.yml": "Models: [{Name: small, Config: configs/small/small.py}]",
        },
        panoptic={"panoptic.py": WITHOUT_BOXES + TINY},
        broken={"broken.py": BROKEN + DATA},
        endless={"endless.py": "import time\ntime.sleep(600)"},
        _base_={"base.py": "a = 1"},
        empty={"README.md": "nothing"},
    )
    for family, files in content.items():
        (tmp_path / "zoo" / family).mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / "zoo" / family / name).write_text(text)
    init_default_scope("mmdet")
    return tmp_path / "zoo"


def test_each_family_says_how_it_went(zoo, tmp_path):
    known = families(zoo)
    assert known == dict(
        broken="broken.py", endless="endless.py", panoptic="panoptic.py", small="small.py"
    )
    out, lines = tmp_path / "out", []
    small, panoptic, broken = sweep(
        ["small", "panoptic", "broken"], out, minutes=5, gigabytes=16, zoo=zoo, say=lines.append
    )
    assert small["result"] == "works", small
    assert (small["source"], small["strides"]) == (["neck"], [8, 16, 32])
    assert 0 < small["moved"] <= small["boxes"] <= 20
    assert panoptic["result"] == "refused", panoptic
    assert "PanopticFPN" in panoptic["reason"]
    assert broken["result"] == "fails", broken
    (endless,) = sweep(["endless"], out, minutes=0.01, gigabytes=16, zoo=zoo, say=lines.append)
    assert endless["reason"] == "takes more than 0.01 min"
    assert len(lines) == 4
    # What is done is not done again.
    again = sweep(["endless", "small"], out, 5, 16, zoo, lines.append)
    assert again == [endless, small]
    assert len(lines) == 4
    text = table([endless, small, panoptic, broken])
    assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == [
        "| small",
        "| panoptic",
        "| broken",
        "| endless",
    ]


def test_an_unknown_family_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out"), "--families", "yolox", "yolo_x"])
    assert "--families yolo_x: not in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_teachers_config_is_found_in_the_zoo(tmp_path):
    teacher = dict(teacher_config="configs/gfl/gfl_r50_fpn_1x_coco.py")
    lab.zoo._find_teacher(teacher)
    assert Path(teacher["teacher_config"]).is_file()
    mine = tmp_path / "mine.py"
    mine.write_text("")
    for given in (dict(teacher_config=str(mine)), dict(teacher_config=dict(type="GFL")), dict()):
        before = dict(given)
        lab.zoo._find_teacher(given)
        assert given == before


def test_standardised_weights_are_tamed_and_others_stay():
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(ConvAWS2d(32, 32, 3, padding=1) for _ in range(30)))
    x = torch.randn(1, 32, 8, 8)
    with torch.no_grad():
        assert not model(x).isfinite().all() or model(x).abs().max() > 1e20
        lab.zoo._tame(model)
        assert model(x).abs().max() < 1e3
    plain = torch.nn.Conv2d(3, 3, 1)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    lab.zoo._tame(plain)
    assert all(torch.equal(plain.state_dict()[key], value) for key, value in before.items())
