"""`ebm2d_to_ebm_mmdet.py`: made-up tensors of the authors' names, against their formulas."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import roi_align
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

import ebm_mmdet  # noqa: F401  (registers the models)
from ebm_mmdet.engine.checkpoint_conversion import ConversionError
from ebm_ops import prroi_pool

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "ebm" / "faster_rcnn_r50_caffe_fpn_nceplus_official.py"


def load_tool():
    path = ROOT / "tools" / "model_converters" / "ebm2d_to_ebm_mmdet.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


TOOL = load_tool()


def official_shapes(base: int = 64, fpn: int = 256, fc: int = 1024) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' model; the defaults are the published ones."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name, channels):
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{tensor}"] = (channels,)

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    body = "backbone.body"
    shapes[f"{body}.stem.conv1.weight"] = (64, 3, 7, 7)
    norm(f"{body}.stem.bn1", 64)
    into = 64
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        width = base * 2 ** (stage - 1)
        for block in range(blocks):
            name = f"{body}.layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, into, 1, 1)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes[f"{name}.conv3.weight"] = (4 * width, width, 1, 1)
            for number, channels in ((1, width), (2, width), (3, 4 * width)):
                norm(f"{name}.bn{number}", channels)
            if not block:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, into, 1, 1)
                norm(f"{name}.downsample.1", 4 * width)
            into = 4 * width
        layer(f"backbone.fpn.fpn_inner{stage}", fpn, into, 1, 1)
        layer(f"backbone.fpn.fpn_layer{stage}", fpn, fpn, 3, 3)
    for level in range(5):
        shapes[f"{TOOL.ANCHORS}{level}"] = (3, 4)
    layer("rpn.head.conv", fpn, fpn, 3, 3)
    layer("rpn.head.cls_logits", 3, fpn, 1, 1)
    layer("rpn.head.bbox_pred", 12, fpn, 1, 1)
    for head in ("box", "iou"):
        layer(f"roi_heads.{head}.feature_extractor.fc6", fc, fpn * 49)
        layer(f"roi_heads.{head}.feature_extractor.fc7", fc, fc)
    layer("roi_heads.box.predictor.cls_score", 81, fc)
    layer("roi_heads.box.predictor.bbox_pred", 324, fc)
    layer("roi_heads.iou.predictor.iou_pred", 81, fc)
    return shapes


def small_model():
    """The config's model with a twelfth of its width."""
    init_default_scope("mmdet")
    cfg = Config.fromfile(CONFIG).model
    detector = cfg.detector
    detector.backbone.update(base_channels=4, stem_channels=64)
    detector.neck.update(in_channels=[16, 32, 64, 128], out_channels=8)
    detector.rpn_head.update(in_channels=8, feat_channels=8)
    detector.roi_head.bbox_roi_extractor.out_channels = 8
    detector.roi_head.bbox_head.update(in_channels=8, fc_out_channels=12)
    cfg.energy_head.update(in_channels=8, fc_channels=[12, 12])
    return MODELS.build(cfg).eval()


@pytest.fixture(scope="module")
def official():
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in official_shapes(4, 8, 12).items():
        value = torch.randn(shape, generator=generator) * 0.1
        state[name] = 1 + value.abs() if name.endswith("running_var") else value
    anchors = small_model().detector.rpn_head.prior_generator.base_anchors
    for level, boxes in enumerate(anchors):
        state[f"{TOOL.ANCHORS}{level}"] = boxes - torch.tensor([0.0, 0, 1, 1])
    return state


@pytest.fixture(scope="module")
def model(official):
    model = small_model()
    state, left_out = TOOL.convert(official, model.state_dict())
    assert sorted(left_out) == [f"{TOOL.ANCHORS}{level}" for level in range(5)]
    model.load_state_dict(state)
    return model


def test_published_sizes():
    """306 tensors of 55,789,041 numbers, of which 301 have a place in the config's model."""
    shapes = official_shapes()
    assert len(shapes) == 306
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 55_789_041
    with torch.device("meta"):
        official = {name: torch.empty(shape) for name, shape in shapes.items()}
        init_default_scope("mmdet")
        expected = MODELS.build(Config.fromfile(CONFIG).model).state_dict()
    state, left_out = TOOL.convert(official, expected)
    assert len(left_out) == 5
    assert state.keys() == expected.keys()


def test_rows_of_classes_and_boxes(official, model):
    """Class k is row k + 1 of the file; its background is last in the box head, else dropped."""
    theirs = official["roi_heads.box.predictor.cls_score.weight"]
    ours = model.detector.roi_head.bbox_head.fc_cls.weight
    assert torch.equal(ours[:80], theirs[1:])
    assert torch.equal(ours[80], theirs[0])
    boxes = official["roi_heads.box.predictor.bbox_pred.bias"]
    assert torch.equal(model.detector.roi_head.bbox_head.fc_reg.bias, boxes[4:])
    energies = official["roi_heads.iou.predictor.iou_pred.weight"]
    assert torch.equal(model.energy_head.fc_energy.weight, energies[1:])


def test_frozen_norms_add_no_epsilon(official, model):
    """(x - mean) w / sqrt(var) + b, as in maskrcnn-benchmark."""
    name = "layer2.1.bn2"
    mean, var, weight, bias = (
        official[f"backbone.body.{name}.{part}"].view(-1, 1, 1)
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    x = torch.randn(2, len(mean), 3, 3)
    expected = (x - mean) * weight / var.sqrt() + bias
    norm = model.detector.backbone.layer2[1].bn2
    torch.testing.assert_close(norm(x), expected, rtol=1e-5, atol=1e-6)


def test_heads_pool_the_box_without_its_last_pixel(official, model):
    """Logits and energies of inclusive boxes by the authors' formulas, on their levels."""
    sizes = [(48, 64), (24, 32), (12, 16), (6, 8)]
    feats = [torch.randn(1, 8, *size) for size in sizes]
    inclusive = torch.tensor(
        [[10.0, 12, 60, 70], [3, 5, 150, 120], [0, 0, 250, 190], [9, 9, 9, 30]]
    )
    half_open = inclusive + torch.tensor([0.0, 0, 1, 1])
    areas = (half_open[:, 2:] - half_open[:, :2]).prod(1)
    levels = (4 + torch.log2(areas.sqrt() / 224 + 1e-6)).floor().clamp(2, 5).long() - 2
    assert levels.tolist() == [0, 1, 1, 0]

    def by_hand(head, pool, last):
        rows = []
        for box, level in zip(inclusive, levels):
            roi = torch.cat([torch.zeros(1), box])[None]
            x = pool(feats[level], roi, 1 / 4 / 2**level).flatten(1)
            for fc in ("fc6", "fc7"):
                name = f"roi_heads.{head}.feature_extractor.{fc}"
                x = F.linear(x, official[f"{name}.weight"], official[f"{name}.bias"]).relu()
            name = f"roi_heads.{head}.predictor.{last}"
            rows.append(F.linear(x, official[f"{name}.weight"], official[f"{name}.bias"]))
        return torch.cat(rows)

    def aligned(feat, roi, scale):
        return roi_align(feat, roi, 7, scale, 2, "avg", False)

    def precise(feat, roi, scale):
        return prroi_pool(feat, roi, 7, scale)

    rois = torch.cat([torch.zeros(4, 1), half_open], dim=1)
    roi_head = model.detector.roi_head
    with torch.no_grad():
        logits, _ = roi_head.bbox_head(roi_head.bbox_roi_extractor(feats, rois))
        expected = by_hand("box", aligned, "cls_score")
        torch.testing.assert_close(logits[:, :80], expected[:, 1:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[:, 80], expected[:, 0], rtol=1e-4, atol=1e-5)
        expected = by_hand("iou", precise, "iou_pred")
        labels = torch.tensor([0, 7, 79, 3])
        index = torch.zeros(4, dtype=torch.long)
        f = model.energy_head.log_density(feats, half_open[:, None], index, labels)
    torch.testing.assert_close(f[:, 0], expected[torch.arange(4), labels + 1], rtol=1e-4, atol=1e-5)


def test_a_whole_image_runs(model):
    from mmdet.testing import demo_mm_inputs

    data = demo_mm_inputs(1, [(3, 96, 128)])
    data = model.data_preprocessor(data, False)
    (sample,) = model.predict(data["inputs"], data["data_samples"])
    assert {"bboxes", "scores", "log_density"} <= set(sample.pred_instances.keys())


def test_other_files_are_refused(official, model, tmp_path):
    expected = model.state_dict()
    with pytest.raises(ConversionError, match=r"missing, ours: energy_head\.trunk"):
        TOOL.convert({k: v for k, v in official.items() if "iou" not in k}, expected)
    with pytest.raises(ConversionError, match="without a place: roi_heads.mask"):
        TOOL.convert({**official, "roi_heads.mask.weight": torch.zeros(1)}, expected)
    anchors = model.detector.rpn_head.prior_generator.base_anchors
    TOOL.check_anchors(official, anchors)
    moved = {**official, f"{TOOL.ANCHORS}2": official[f"{TOOL.ANCHORS}2"] + 2}
    with pytest.raises(ConversionError, match="cell_anchors.2"):
        TOOL.check_anchors(moved, anchors)
    state, _ = TOOL.convert({f"module.{k}": v for k, v in official.items()}, expected)
    assert all(torch.equal(state[k], v) for k, v in expected.items())


def test_an_old_file_becomes_a_checkpoint(official, model, tmp_path, monkeypatch):
    """The layout of torch 1.0, with the training's other entries beside the model."""
    source, target = tmp_path / "nce+ model.pth", tmp_path / "converted.pth"
    content = dict(model={f"module.{k}": v for k, v in official.items()}, iteration=60000)
    torch.save(content, source, _use_new_zipfile_serialization=False)
    monkeypatch.setattr(TOOL, "our_model", small_model)
    assert TOOL.run(source, target) == 301 - sum("num_batches" in k for k in official)
    again = torch.load(target, weights_only=True)
    assert len(again["meta"]["dataset_meta"]["classes"]) == 80
    small_model().load_state_dict(again["state_dict"])
    with pytest.raises(ConversionError, match="not overwritten"):
        TOOL.run(source, target)
