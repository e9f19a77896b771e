"""The sweep over a model zoo, on a zoo of four small families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmcv.cnn.bricks.conv_ws import ConvAWS2d
from mmcv.ops import CARAFEPack
from mmengine.registry import init_default_scope

import zoo as command
from lab.zoo import substitutes, trial
from lab.zoo.records import add_records, read_records, table
from lab.zoo.sweep import families, sweep
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
    assert [*again] == [endless, small]
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
        command.main(["--out", str(tmp_path / "out"), "--families", "yolox", "yolo_x"])
    assert "--families yolo_x: not in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_from_elsewhere_are_kept_and_not_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "families", lambda: dict(a="a.py", b="b.py", c="c.py"))
    tried = []

    def some(chosen, *_):
        for name in chosen:
            tried.append(name)
            yield dict(family=name, config=f"{name}.py", result="fails", reason="so", trace="long")

    monkeypatch.setattr(command, "sweep", some)
    records, page = tmp_path / "runs.jsonl", tmp_path / "zoo.md"
    works = dict(family="b", config="b.py", result="works", source=["neck"], strides=[8])
    works |= dict(in_channels=[16], masks=True, remarks=["with random proposals"])
    old = dict(works, family="c", config="old.py")  # of another mmdet
    add_records(records, [works, old], [])
    arguments = ["--out", str(tmp_path / "out"), "--records", str(records), "--page", str(page)]
    command.main([*arguments, "--families", "a", "b"])
    assert tried == ["a"]
    known = dict(a="a.py", b="b.py", c="c.py")
    kept = read_records(records, known)
    assert [each["family"] for each in kept] == ["a", "b"]
    assert kept[1] == works
    assert "trace" not in kept[0]
    text = page.read_text()
    assert "2 of 3 families: 1 work, 1 fail. Not tried yet: c." in text
    row = "| b | b.py | works | neck: strides [8], 16 | masks kept; with random proposals |"
    assert row in text
    command.main(arguments)
    assert tried == ["a", "c"]
    assert len(read_records(records, known)) == 3
    capsys.readouterr()
    records.write_text('{"family": "a"}\n')
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert "runs.jsonl, line 1 is not the result of a family" in capsys.readouterr().err
    assert tried == ["a", "c"]


def test_carafe_is_its_definition():
    """Equation 3 of CARAFE, cell by cell, with two groups of channels."""
    torch.manual_seed(0)
    number, channels, side, kernel, groups, scale = 2, 4, 3, 3, 2, 2
    x = torch.randn(number, channels, side, side, dtype=torch.float64)
    masks = torch.randn(number, groups * kernel**2, scale * side, scale * side, dtype=torch.float64)
    expected = torch.zeros(number, channels, scale * side, scale * side, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, [1] * 4)
    for c in range(channels):
        group = c // (channels // groups)
        for i in range(scale * side):
            for j in range(scale * side):
                row, column = i // scale, j // scale
                around = padded[:, c, row : row + kernel, column : column + kernel]
                weights = masks[:, group * kernel**2 : (group + 1) * kernel**2, i, j]
                expected[:, c, i, j] = (around.flatten(1) * weights).sum(1)
    torch.testing.assert_close(substitutes.carafe(x, masks, kernel, groups, scale), expected)


def test_a_masked_convolution_is_zero_elsewhere():
    torch.manual_seed(0)
    layer, x = torch.nn.Conv2d(3, 5, 3, padding=1), torch.randn(1, 3, 6, 7)
    mask = torch.rand(1, 6, 7) > 0.5
    found = substitutes.masked_conv2d(x, mask, layer.weight, layer.bias, 1)
    kept = mask[:, None].expand_as(found)
    torch.testing.assert_close(found[kept], layer(x)[kept])
    assert not found[~kept].any()


def test_mmcvs_operators_are_replaced_for_a_while():
    before = substitutes.CARAFE.carafe
    layer = CARAFEPack(4, scale_factor=2)
    with substitutes.on_cpu() as used:
        assert layer(torch.randn(1, 4, 5, 5)).shape == (1, 4, 10, 10)
        assert used == {"carafe"}
    assert substitutes.CARAFE.carafe is before


def test_norms_of_several_processes_become_plain_ones():
    config = dict(backbone=dict(norm_cfg=dict(type="BN")), heads=[dict(norm=dict(type="MMSyncBN"))])
    assert len(substitutes.plain_norms(config)) == 1
    assert config["heads"][0]["norm"]["type"] == "BN"
    assert substitutes.plain_norms(config) == []


def test_the_teachers_config_is_found_in_the_zoo(tmp_path):
    teacher = dict(teacher_config="configs/gfl/gfl_r50_fpn_1x_coco.py")
    trial._find_teacher(teacher)
    assert Path(teacher["teacher_config"]).is_file()
    mine = tmp_path / "mine.py"
    mine.write_text("")
    for given in (dict(teacher_config=str(mine)), dict(teacher_config=dict(type="GFL")), dict()):
        before = dict(given)
        trial._find_teacher(given)
        assert given == before


def test_standardised_weights_are_tamed_and_others_stay():
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(ConvAWS2d(32, 32, 3, padding=1) for _ in range(30)))
    x = torch.randn(1, 32, 8, 8)
    with torch.no_grad():
        assert not model(x).isfinite().all() or model(x).abs().max() > 1e20
        trial._tame(model)
        assert model(x).abs().max() < 1e3
    plain = torch.nn.Conv2d(3, 3, 1)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    trial._tame(plain)
    assert all(torch.equal(plain.state_dict()[key], value) for key, value in before.items())
