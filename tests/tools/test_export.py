"""tools/deployment/export.py: the command writes what it says, and refuses early."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("graph.pth", [], "give a file .pt2 or .onnx"),
        ("graph.onnx", ["--with-operators"], "ONNX has no operator for exact pooling"),
        ("graph.pt2", ["--batch", "2"], "takes one image"),
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
