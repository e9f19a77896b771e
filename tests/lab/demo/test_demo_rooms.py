"""The demo on generated rooms, in miniature: once from nothing, and once more."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from lab.demo.rooms import run_rooms_demo

ROOT = Path(__file__).parents[3]
STUDY = ROOT / "configs" / "rock" / "rooms_study.yaml"
SMALL = {
    "train_cfg.max_iters": 1,
    "train_dataloader.batch_size": 2,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "train_dataloader.dataset.num_images": 2,
    "val_dataloader.dataset.num_images": 2,
}


def test_from_nothing_to_a_table_and_pictures(tmp_path, capsys):
    out = run_rooms_demo(STUDY, tmp_path / "rooms", overrides=SMALL, jobs=2)
    printed = capsys.readouterr().out
    for part in ("SSD", "flat", "ROCK", "normals", "AP75", "pictures:"):
        assert part in printed
    report = json.loads((out / "results.json").read_text())
    assert [row["method"] for row in report["rows"]] == ["SSD", "flat", "ROCK"]
    assert {"scene/top1", "depth/abs_rel", "normals/mean"} <= set(report["rows"][2]["auxiliary"])
    pictures = sorted(p.name for p in (out / "pictures").iterdir())
    assert pictures == ["room_1.png", "room_2.png"]
    # Two rows of boxes, depth and normals, each four times the room's 96 x 128 pixels.
    assert cv2.imread(str(out / "pictures" / "room_1.png")).shape == (2 * 384, 3 * 512, 3)
    # Interrupted before its end: nothing is trained again.
    (out / "results.json").unlink()
    assert run_rooms_demo(STUDY, tmp_path / "rooms", overrides=SMALL, jobs=1) == out
    printed = capsys.readouterr().out
    assert "going on with the unfinished run" in printed
    assert "iterations of" not in printed


def test_a_page_is_for_the_published_run(tmp_path):
    with pytest.raises(ValueError, match="spread over several seeds"):
        run_rooms_demo(STUDY, tmp_path / "rooms", page=tmp_path / "page.md")
    assert not (tmp_path / "rooms").exists()
