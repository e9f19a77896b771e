"""The sweep over a model zoo, on a zoo of four small families."""

from __future__ import annotations

import pytest
from mmengine.registry import init_default_scope

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
