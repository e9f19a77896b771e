"""tools/deployment/export.py: the command writes what it says, and refuses early."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from deployment import export
from deployment.export import main
from tests.ebm_mmdet.apis.exporting.small_models import build_separated, small_fcos_cfg


@pytest.fixture
def paths(tmp_path) -> list[str]:
    cfg = small_fcos_cfg()
    Config(dict(model=cfg, default_scope="mmdet")).dump(tmp_path / "a model.py")
    torch.save({"state_dict": build_separated(cfg).state_dict(), "meta": {}}, tmp_path / "w.pth")
    return [str(tmp_path / "a model.py"), str(tmp_path / "w.pth")]


def test_the_command_writes_a_file_and_never_over_one(paths, tmp_path, capsys):
    out = tmp_path / "new folder" / "graph.pt2"
    options = ["--image-size", "48", "64", "--boxes", "5", "--refinement-only", "--with-operators"]
    main([*paths, str(out), *options])
    printed = capsys.readouterr().out
    assert "px of the model's, on 2 inputs of noise; 0 of 10 are more than 0.001 px" in printed
    assert "import ebm_ops" in printed
    assert "not in the file" not in printed
    before = out.read_bytes()
    with pytest.raises(SystemExit, match="exists; name a new file"):
        main([*paths, str(out), *options])
    assert out.read_bytes() == before


def test_boxes_that_end_elsewhere_are_counted(paths, tmp_path, capsys, monkeypatch):
    def open_graph(path):
        run = export_open(path)

        def apart(*inputs):
            boxes, *others = run(*inputs)
            return [boxes + torch.tensor([0.0, 0.0, 0.01, 0.0]) * (boxes == boxes[0]), *others]

        return apart

    export_open = export.open_graph
    monkeypatch.setattr(export, "open_graph", open_graph)
    options = ["--image-size", "48", "64", "--boxes", "5", "--refinement-only", "--with-operators"]
    main([*paths, str(tmp_path / "graph.pt2"), *options])
    assert "within 0.01 px" in (printed := capsys.readouterr().out)
    assert "2 of 10 are more than 0.001 px away" in printed


@pytest.fixture
def unwritten(monkeypatch, capsys) -> list[str]:
    """The command without its long work: the file is the module; what was said before is kept."""
    said: list[str] = []

    def record(graph, *_):
        said.append(capsys.readouterr().out)
        monkeypatch.setattr(export, "open_graph", lambda path: graph)

    monkeypatch.setattr(export, "record", record)
    monkeypatch.setattr(export, "write_graph", lambda *_: None)
    return said


def change(config: Path, **values) -> None:
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({name.replace("__", "."): value for name, value in values.items()})
    cfg.dump(config)


def printed_by(capsys, options: list[str]) -> list[str]:
    """The lines after the long work."""
    main(options)
    return capsys.readouterr().out.splitlines()


def lines_with(text: str, printed: list[str]) -> list[str]:
    return [line for line in printed if text in line]


def test_boxes_beyond_the_rows_are_counted(paths, tmp_path, unwritten, capsys):
    options = [*paths, str(tmp_path / "graph.pt2"), "--image-size", "96", "128"]
    change(paths[0], model__detector__test_cfg__max_per_img=-1, model__min_score=0.6)
    printed = printed_by(capsys, [*options, "--boxes", "2"])
    assert unwritten == [""]
    (line,) = lines_with("rows have no place", printed)
    more = int(re.search(r"predict has (\d+) boxes more", line)[1])
    levels = {float(score): int(n) for score, n in re.findall(r"with (\S+) or more: (\d+)", line)}
    assert list(levels) == [0.05, 0.3, 0.6]
    assert more >= levels[0.05] >= levels[0.3] > levels[0.6]
    assert lines_with("0 of 4 are more than 0.001 px away", printed)
    (advice,) = lines_with("has place for all of them from 0.05 on", printed)
    needed = re.search(r"--boxes (\d+)", advice)[1]
    assert 2 < int(needed) <= 2 + levels[0.05]  # of the input that has most
    assert not lines_with("from 0.05 on", printed_by(capsys, [*options, "--boxes", needed]))


def test_a_detector_without_a_limit_says_so_before_the_long_work(paths, tmp_path, unwritten):
    options = [*paths, str(tmp_path / "graph.pt2"), "--image-size", "48", "64"]
    main(options)
    change(paths[0], model__detector__test_cfg__max_per_img=-1)
    main(options)
    change(paths[0], model__detector__test_cfg__max_per_img=500)
    main([*options, "--candidates", "80"])
    first, second, third = unwritten
    assert first == ""
    assert "has no limit of boxes here (max_per_img): the file gets 100 rows" in second
    assert "--boxes gives another number" in second
    assert "max_per_img is 500, but the file gets 80 rows" in third
    assert "there are 80 candidates" in third


@pytest.mark.usefixtures("unwritten")
def test_boxes_for_which_there_are_rows_are_missed(paths, tmp_path, monkeypatch, capsys):
    change(paths[0], model__detector__test_cfg__max_per_img=30)
    options = [*paths, str(tmp_path / "graph.pt2"), "--image-size", "96", "128"]
    graph_of = export.DetectorGraph

    def lacking(*args):
        graph = graph_of(*args)
        graph.places = 3
        return graph

    monkeypatch.setattr(export, "DetectorGraph", lacking)
    printed = printed_by(capsys, options)
    (line,) = lines_with("boxes of predict's, and has rows left for them", printed)
    assert "--candidates" in line
    assert not lines_with("rows have no place", printed)


@pytest.mark.parametrize("option", ["--boxes", "--candidates", "--batch"])
def test_numbers_below_one_are_refused(paths, tmp_path, option, capsys):
    with pytest.raises(SystemExit):
        main([*paths, str(tmp_path / "graph.pt2"), "--image-size", "48", "64", option, "0"])
    assert f"{option}: 0 is below 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("graph.pth", [], "give a file .pt2 or .onnx"),
        ("graph.onnx", ["--with-operators"], "ONNX has no operator for exact pooling"),
        ("graph.pt2", ["--batch", "2"], "takes one image"),
        ("graph.pt2", ["--boxes", "9", "--candidates", "8"], "boxes is 9, but there are 8 cand"),
        ("graph.pt2", ["--refinement-only", "--images", "a.png"], "--images are for whole"),
    ],
)
def test_options_that_do_not_fit_are_refused(paths, tmp_path, name, options, message):
    out = tmp_path / name
    with pytest.raises(SystemExit, match=message):
        main([*paths, str(out), "--image-size", "48", "64", *options])
    assert not out.exists()


def test_the_refinement_alone_knows_no_scores_and_no_mirror_images(paths, tmp_path, capsys):
    config, out = tmp_path / "a model.py", tmp_path / "graph.pt2"
    options = ["--image-size", "48", "64", "--boxes", "5", "--refinement-only", "--with-operators"]
    cfg = Config.fromfile(config)
    cfg.model.min_score = 0.25
    cfg.dump(config)
    main([*paths, str(out), *options])
    assert "not in the file: min_score=0.25" in capsys.readouterr().out
    cfg.model.flips = ["horizontal"]
    cfg.dump(config)
    with pytest.raises(SystemExit, match=r"model.flips is \['horizontal'\]"):
        main([*paths, str(tmp_path / "other.pt2"), *options])
