"""tools/deployment/export.py: the graph computes what the model computes."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from deployment.export import Refinement, check_exportable, example, export_refinement, main
from tests.ebm_mmdet.models.toys import build, ebm_cfg

REFINER = dict(type="GradientAscentRefiner", step_size=[0.01, 0.01, 0.02, 0.02], num_steps=2)


def test_exported_refinement_equals_the_models(tmp_path):
    """After saving and loading, on other boxes and maps than those it was recorded from."""
    model = build(ebm_cfg("faster_rcnn", refiner=REFINER))
    inputs = example(model, (96, 128), batch=2, count=9)
    program = export_refinement(model, inputs)
    torch.export.save(program, tmp_path / "graph.pt2")
    graph = torch.export.load(tmp_path / "graph.pt2").module()
    boxes, labels, images, *maps = inputs
    boxes = boxes.flip(0) * 0.7 + 3
    boxes[4] = 0  # filling
    other = boxes, labels.roll(1), images.flip(0), *(m.flip(3) for m in maps)
    found, wanted = graph(*other), Refinement(model)(*other)
    assert (wanted[0] - boxes).abs().max() > 0.01, "nothing moves"
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(found[1], wanted[1])


@pytest.mark.parametrize(
    ("refiner", "message"),
    [
        (None, "model.refiner is NoneType"),
        (dict(type="GradientAscentRefiner", prior=dict(std=[0.1] * 4)), "has a prior"),
    ],
)
def test_what_cannot_be_exported_says_so(refiner, message):
    with pytest.raises(ValueError, match=message):
        check_exportable(build(ebm_cfg("faster_rcnn", refiner=refiner)))


def test_the_command_writes_a_file_and_never_over_one(tmp_path, capsys):
    cfg = ebm_cfg("faster_rcnn", refiner={**REFINER, "num_steps": 1})
    Config(dict(model=cfg, default_scope="mmdet")).dump(tmp_path / "a model.py")
    torch.save({"state_dict": build(cfg).state_dict(), "meta": {}}, tmp_path / "weights.pth")
    out = tmp_path / "new folder" / "graph.pt2"
    paths = [str(tmp_path / "a model.py"), str(tmp_path / "weights.pth"), str(out)]
    options = ["--image-size", "96", "128", "--boxes", "5"]
    main([*paths, *options])
    assert "px of the model's" in capsys.readouterr().out
    before = out.read_bytes()
    with pytest.raises(SystemExit, match="exists; remove it"):
        main([*paths, *options])
    assert out.read_bytes() == before
