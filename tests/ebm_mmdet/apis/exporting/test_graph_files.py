"""Files of whole detectors: without our packages they give the boxes of the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ebm_mmdet.apis.exporting import (
    Comparison,
    DetectorGraph,
    RefinementGraph,
    check_suffix,
    open_graph,
    record,
    write_graph,
)
from tests.ebm_mmdet.apis.exporting.small_models import SIZE, build_separated, small_fcos_cfg

NOTES = {"classes": ["ellipse", "polygon", "star"], "image_size": SIZE}


def needs_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed (requirements/onnx.txt)")


@pytest.fixture(scope="module")
def detector():
    """A detector that finds more than K boxes in one image of noise and none in a grey one."""
    model = build_separated(small_fcos_cfg())
    head = model.detector.bbox_head
    torch.nn.init.constant_(head.conv_centerness.bias, 20.0)  # scores are those of the classes
    graph = DetectorGraph(model, SIZE, count=3, candidates=20).eval()
    noise, grey = graph.example(1)[0], torch.full((1, 3, *SIZE), 110.0)
    low, high = (graph.predicted(image)[1][: graph.count] for image in (grey, noise))
    assert low[0] < high[-1], "choose another seed"
    head.test_cfg.score_thr = model.detector.test_cfg.score_thr = float(low[0] + high[-1]) / 2
    images = [noise, grey, graph.example(2)[0]]
    return graph, record(graph, graph.example(0), ("image",), graph.output_names), images


def check_outputs(graph: DetectorGraph, run, images: list[torch.Tensor]) -> None:
    numbers, compared = [], Comparison(graph.output_names)
    for image in images:
        found = run(image)
        compared.add(found, graph.predicted(image))
        numbers.append(int(found[4]))
    assert max(compared.worst.values()) <= 1e-3, compared.worst
    assert numbers[:2] == [graph.count, 0]
    assert [len(scores) > 0 for scores in compared.beyond[:2]] == [True, False]


def test_onnxruntime_gives_the_models_boxes(detector, tmp_path):
    needs_onnx()
    import onnx

    graph, recorded, images = detector
    path = tmp_path / "a folder" / "detector.onnx"
    write_graph(recorded, path, NOTES)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not model.functions
    notes = {each.key: json.loads(each.value) for each in model.metadata_props}
    assert notes["classes"] == NOTES["classes"]
    assert [each.name for each in model.graph.output] == list(graph.output_names)
    check_outputs(graph, open_graph(path), images)


def test_a_plain_program_runs_where_there_is_torch_alone(detector, tmp_path):
    graph, recorded, images = detector
    path = tmp_path / "detector.pt2"
    write_graph(recorded, path, NOTES)
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, torch; run = torch.export.load('detector.pt2').module(); "
        "torch.save([list(run(image)) for image in torch.load('images.pt')], 'found.pt'); "
        "assert not {'ebm_ops', 'ebm_mmdet', 'mmdet', 'mmcv'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True)
    outputs = iter(torch.load(tmp_path / "found.pt"))
    check_outputs(graph, lambda _: next(outputs), images)


def test_refinement_keeps_our_operators_if_asked(tmp_path):
    """After saving and loading, on other boxes and maps than those it was recorded from."""
    model = build_separated(small_fcos_cfg())
    graph = RefinementGraph(model).eval()
    inputs = graph.example(model, SIZE, batch=2, count=9)
    names = (*graph.input_names, "map0")
    recorded = record(graph, inputs, names, graph.output_names, plain=False)
    assert "ebm_ops" in str(recorded.program.graph)
    write_graph(recorded, tmp_path / "graph.pt2", NOTES)
    boxes, labels, images, *maps = inputs
    boxes = boxes.flip(0) * 0.7 + 3
    boxes[4] = 0  # filling
    other = boxes, labels.roll(1), images.flip(0), *(m.flip(3) for m in maps)
    found, wanted = open_graph(tmp_path / "graph.pt2")(*other), graph(*other)
    assert (wanted[0] - boxes).abs().max() > 0.01, "nothing moves"
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(found[1], wanted[1])


def test_first_steps_by_regression_are_recorded(tmp_path):
    cfg = small_fcos_cfg()
    cfg["energy_head"]["regression"] = dict()
    cfg["refiner"] = dict(cfg["refiner"], regression_steps=1)
    model = build_separated(cfg)
    torch.nn.init.normal_(model.energy_head.regression.fc.weight, std=0.05)
    graph = RefinementGraph(model).eval()
    inputs = graph.example(model, SIZE, batch=1, count=5)
    recorded = record(graph, inputs, (*graph.input_names, "map0"), graph.output_names)
    write_graph(recorded, tmp_path / "graph.pt2", NOTES)
    boxes, *rest = inputs
    other = (boxes.flip(0) * 0.7 + 3, *rest)
    found, wanted = open_graph(tmp_path / "graph.pt2")(*other), graph(*other)
    assert (wanted[0] - other[0]).abs().max() > 0.1, "nothing moves"
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(found[1], wanted[1])


def test_names_of_files_are_checked_first(monkeypatch):
    with pytest.raises(ValueError, match="give a file .pt2 or .onnx"):
        check_suffix(Path("graph.pth"))
    with pytest.raises(ValueError, match="ONNX has no operator for exact pooling"):
        check_suffix(Path("graph.onnx"), plain=False)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        check_suffix(Path("graph.onnx"))


def test_values_that_choose_cannot_be_recorded():
    class Chooses(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="Chooses cannot be recorded"):
        record(Chooses(), (torch.ones(2),), ("x",), ("y",))
