"""EBMDetector around detectors of every kind, with nothing told about their features."""

from __future__ import annotations

import copy
import logging
from functools import cache

import pytest
import torch
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from ebm_mmdet.models.detectors import dry_run as dry
from ebm_mmdet.models.masks import predict_masks
from tests.ebm_mmdet.models.toys import NUM_CLASSES, batch, build, detector_cfg, ebm_cfg

LEVELS = ("in_channels", "strides", "feature_levels", "finest_scale")


def without_levels(cfg: dict) -> dict:
    head = {key: value for key, value in cfg["energy_head"].items() if key not in LEVELS}
    return {**cfg, "energy_head": head}


@cache
def zoo(path: str) -> Config:
    return get_config(f"mmdet::{path}")


def small(path: str) -> ConfigDict:
    """The model of mmdet's config with a small ResNet, or as it is where it has another one."""
    cfg = ConfigDict(zoo(path).model.to_dict())
    if cfg.get("backbone", {}).get("type") == "ResNet":
        cfg.backbone.update(depth=18, base_channels=8, init_cfg=None, frozen_stages=-1)
        neck = cfg.get("neck")
        if neck and neck.get("type") == "FPN":
            used = len(neck.in_channels)
            neck.in_channels = [8, 16, 32, 64][-used:]
    return cfg


def wrapped(detector, **overrides) -> dict:
    cfg = without_levels(ebm_cfg())
    return {**cfg, "detector": detector, **overrides}


def make(cfg: dict) -> torch.nn.Module:
    init_default_scope("mmdet")
    torch.manual_seed(0)
    return MODELS.build(cfg).eval()


def predict(model, data, **kwargs):
    with torch.no_grad():
        return model.predict(data["inputs"], data["data_samples"], **kwargs)


@pytest.fixture
def log():
    """Records of mmengine's logger, which does not pass them on."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet"])
def test_what_is_found_equals_what_is_given(name, monkeypatch, log):
    given = ebm_cfg(name)
    strides = [4, 8, 16, 32] if name == "faster_rcnn" else [8, 16, 32]
    levels = list(range(len(strides)))
    given["energy_head"].update(strides=strides, feature_levels=levels)
    make(without_levels(given))
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    found = build(without_levels(given))
    assert f"energy_head on neck: feature_levels={levels}, strides={strides}, in_channels=16" in (
        next(line for line in log if "energy_head on" in line)
    )
    with monkeypatch.context() as patch:
        patch.setattr(dry, "_run", None)  # nothing is left out, so nothing runs
        told = build(given)
    states = [model.state_dict() for model in (found, told)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    for a, b in zip(predict(found, batch(found)), predict(told, batch(told))):
        assert torch.equal(a.pred_instances.bboxes, b.pred_instances.bboxes)


@pytest.mark.parametrize(
    ("path", "source", "strides", "levels", "channels"),
    [
        # Coarse to fine, other channels in each map.
        (
            "yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py",
            *("neck", (8, 16, 32), (2, 1, 0), (96, 96, 96)),
        ),
        ("yolox/yolox_nano_8xb8-300e_coco.py", "neck", (8, 16, 32), (0, 1, 2), (64, 64, 64)),
        (
            "ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py",
            "neck",
            (16, 32),
            (0, 1),
            (96, 1280),
        ),
        ("centernet/centernet_r18_8xb16-crop512-140e_coco.py", "neck", (4,), (0,), (16,)),
        ("yolof/yolof_r50-c5_8xb8-1x_coco.py", "neck", (32,), (0,), (512,)),
    ],
)
def test_values_are_found_for_detectors_of_every_kind(path, source, strides, levels, channels):
    cfg = small(path)
    if "centernet" in path:
        cfg.neck.update(in_channels=64, num_deconv_filters=(32, 16, 16), use_dcn=False)
    if "yolof" in path:
        cfg.neck.update(in_channels=64)
    model = make(wrapped(cfg))
    head = model.energy_head
    assert model.feature_sources == (source,)
    assert (head.strides, head.feature_levels, head.in_channels) == (strides, levels, channels)
    assert head.level_rule == ("concat" if len(set(channels)) > 1 else "assign")
    with torch.no_grad():  # an image of another size, not square: the values are checked with it
        head.prepare(model.extract_feat(torch.zeros(1, 3, 192, 320)), input_shape=(192, 320))


def test_a_dry_run_changes_nothing():
    detector = MODELS.build(detector_cfg("faster_rcnn")).train()
    detector.neck.eval()
    modes = {name: module.training for name, module in detector.named_modules()}
    state = {key: value.clone() for key, value in detector.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run = dry.dry_run(detector)
    assert torch.equal(torch.rand(2), expected)
    assert modes == {name: module.training for name, module in detector.named_modules()}
    assert all(torch.equal(value, state[key]) for key, value in detector.state_dict().items())
    assert not any(module._forward_hooks for module in detector.modules())
    assert all(parameter.grad is None for parameter in detector.parameters())
    assert [each.stride for each in run.outputs["neck"]] == [4, 8, 16, 32, 64]
    copy.deepcopy(detector)


def test_on_the_meta_device_only_shapes_are_computed():
    with torch.device("meta"):
        model = MODELS.build(without_levels(ebm_cfg()))
    assert model.energy_head.strides == (4, 8, 16, 32)
    assert model.energy_head.fc_energy.weight.device.type == "meta"


def test_a_detector_that_cannot_run_here_is_named_with_what_to_give():
    detector = detector_cfg("retinanet")
    detector.neck.in_channels = [8, 16, 32, 63]
    with pytest.raises(
        RuntimeError, match=r"RetinaNet.extract_feat does not run.*give energy_head"
    ):
        make(wrapped(detector))
    levels = dict(in_channels=16, strides=[8, 16], feature_levels=[0, 1])
    make(ebm_cfg(detector=detector, head=levels))  # given values need no run


def test_other_sizes_are_tried():
    detector = MODELS.build(detector_cfg("retinanet"))
    extract_feat, seen = detector.extract_feat, []

    def picky(images):
        seen.append(images.shape[-1])
        if images.shape[-1] != 224:
            raise AssertionError("the position embedding is of 224 pixels")
        return extract_feat(images)

    detector.extract_feat = picky
    assert dry.dry_run(detector).size == 224
    assert seen == [256, 224]


@pytest.mark.parametrize("strides", [[32, 16, 8], [8, 8, 16]])
def test_levels_out_of_order_are_refused_under_assign(strides):
    head = dict(strides=strides, feature_levels=[0, 1, 2])
    with pytest.raises(ValueError, match=r"level_rule='assign', which needs .*fine to coarse"):
        make(ebm_cfg(head=head))
    make(ebm_cfg(head=dict(head, level_rule="concat")))


def test_the_remedy_for_levels_out_of_order_fits():
    with pytest.raises(ValueError, match=r"strides=\[8, 16, 32\], feature_levels=\[2, 1, 0\]"):
        make(ebm_cfg(head=dict(strides=[32, 16, 8], feature_levels=[0, 1, 2])))


def test_a_source_that_does_not_run_is_refused_when_the_model_is_built():
    with pytest.raises(ValueError, match=r"'rpn_head' gives no maps .*: backbone, neck") as raised:
        make(wrapped(detector_cfg("faster_rcnn"), feature_source="rpn_head"))
    assert "head" not in str(raised.value).partition("modules that do:")[2]


def soft_teacher(**test_cfg) -> dict:
    detector = detector_cfg("faster_rcnn")
    preprocessor = detector.pop("data_preprocessor")
    return dict(
        type="SoftTeacher",
        detector=dict(detector, data_preprocessor=preprocessor),
        data_preprocessor=dict(type="MultiBranchDataPreprocessor", data_preprocessor=preprocessor),
        semi_train_cfg=dict(freeze_teacher=True),
        semi_test_cfg=dict(predict_on="teacher", **test_cfg),
    )


def test_a_semi_supervised_detector_predicts_and_trains():
    """SoftTeacher: its ``predict`` has no rescale, its neck is in the teacher."""
    model = build(wrapped(soft_teacher()))
    assert model.feature_sources == ("teacher.neck",)
    found = {}
    for rescale in (True, False):
        data = batch(model)
        for sample in data["data_samples"]:
            sample.set_metainfo(dict(scale_factor=(2.0, 0.5)))
        found[rescale] = predict(model, data, rescale=rescale)
    for a, b in zip(found[True], found[False]):
        assert len(a.pred_instances)
        boxes = a.pred_instances.bboxes * torch.tensor([2.0, 0.5, 2.0, 0.5])
        torch.testing.assert_close(boxes, b.pred_instances.bboxes, rtol=1e-3, atol=1e-2)
    data = batch(model.train(), training=True)
    assert model.loss(data["inputs"], data["data_samples"])["loss_energy"] > 0


@pytest.mark.parametrize("kind", ["panoptic_fpn", "maskformer"])
def test_detectors_without_instances_are_refused_when_the_wrapper_is_built(kind):
    path = {
        "panoptic_fpn": "panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py",
        "maskformer": "maskformer/maskformer_r50_ms-16xb1-75e_coco.py",
    }[kind]
    cfg = small(path)
    if kind == "maskformer":
        cfg.panoptic_head.in_channels = [8, 16, 32, 64]
    with pytest.raises(ValueError, match="predicts a panoptic map and no pred_instances"):
        make(wrapped(cfg))


def test_an_unknown_detector_without_instances_is_named_when_it_predicts(monkeypatch):
    model = build(wrapped(detector_cfg("retinanet")))
    monkeypatch.setattr(model.detector, "predict", lambda inputs, samples, rescale: samples)
    with pytest.raises(ValueError, match="RetinaNet predicts .* and no pred_instances"):
        predict(model, batch(model))


def test_boxes_of_zeros_are_announced(log):
    make(wrapped(small("solo/decoupled-solo-light_r50_fpn_3x_coco.py")))
    assert any("its boxes are zeros, which no refinement moves" in line for line in log)


def crowddet() -> ConfigDict:
    cfg = small("crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman.py")
    cfg.data_preprocessor.batch_augments = None
    cfg.neck.out_channels = 16
    cfg.rpn_head.update(in_channels=16, feat_channels=16)
    cfg.roi_head.bbox_roi_extractor.out_channels = 16
    cfg.roi_head.bbox_roi_extractor.roi_layer.pop("use_torchvision")
    cfg.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32)
    cfg.test_cfg.rpn.update(max_per_img=20)
    cfg.test_cfg.rcnn.update(score_thr=0.0)
    return cfg


@pytest.mark.parametrize("candidates", [None, dict(type="EnergyGuidedNMS", score_thr=0.0)])
def test_labels_that_are_floats_become_integers(candidates):
    """CrowdDet's labels are zeros of the type of its scores, and its NMS cannot be left out."""
    model = build(wrapped(crowddet(), candidates=candidates))
    (found,) = predict(model, batch(model, num_items=(2,)))
    assert len(found.pred_instances) > 0
    assert found.pred_instances.labels.dtype == torch.int64
    torch.zeros(len(found.pred_instances), 1).gather(1, found.pred_instances.labels[:, None])


def unclipped(model):
    """The predictions of the model's detector, as one that does not clip would make them."""
    inner = model.detector.predict

    def predict_unclipped(inputs, samples, rescale):
        samples = inner(inputs, samples, rescale=rescale)
        for sample in samples:
            boxes = sample.pred_instances.bboxes
            boxes[0] = torch.tensor([-40.0, -30.0, 400.0, 300.0])
            boxes[1] = torch.tensor([-1e5, -1e5, -9e4, -9e4])  # no features: f has no gradient
        return samples

    model.detector.predict = predict_unclipped
    return predict_unclipped(*batch(model).values(), rescale=True)


@pytest.mark.parametrize("refiner", [None, dict(type="GradientAscentRefiner", step_size=0.5)])
def test_a_box_that_does_not_move_keeps_every_bit_outside_the_image_too(refiner):
    model = build(ebm_cfg("fcos", refiner=refiner))
    plain, found, moved = unclipped(model), predict(model, batch(model)), False
    for before, after in zip(plain, found):
        same = after.pred_instances.accepted_steps == 0
        assert same[1]
        boxes, expected = after.pred_instances.bboxes, before.pred_instances.bboxes
        assert torch.equal(boxes[same], expected[same])
        moved |= bool((~same).any())
        # A box that moved leaves the image no further than the detected one.
        limit = torch.tensor([160.0, 128.0, 160.0, 128.0])
        assert (boxes >= expected.clamp(max=0) - 1e-4).all()
        assert (boxes <= torch.maximum(expected, limit) + 1e-4).all()
    assert moved == (refiner is not None)


@pytest.mark.parametrize("refiner", [None, dict(type="GradientAscentRefiner", step_size=0.5)])
def test_every_box_is_clipped_by_a_switch(refiner):
    model = build(ebm_cfg("fcos", refiner=refiner, clip_boxes="all"))
    unclipped(model)
    limit = torch.tensor([160.0, 128.0, 160.0, 128.0])
    for sample in predict(model, batch(model)):
        assert (sample.pred_instances.bboxes >= 0).all()
        assert (sample.pred_instances.bboxes <= limit).all()
    with pytest.raises(ValueError, match="clip_boxes='some'; use True, False or 'all'"):
        make(ebm_cfg("fcos", clip_boxes="some"))


def mask_rcnn(path: str = "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py") -> ConfigDict:
    cfg = small(path)
    cfg.neck.out_channels = 16
    cfg.rpn_head.update(in_channels=16, feat_channels=16)
    roi_head = cfg.roi_head
    for extractor in (roi_head.bbox_roi_extractor, roi_head.mask_roi_extractor):
        extractor.out_channels = 16
    roi_head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=NUM_CLASSES)
    roi_head.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=NUM_CLASSES)
    cfg.test_cfg.rpn.update(max_per_img=50)
    cfg.test_cfg.rcnn.update(score_thr=0.0, max_per_img=20)
    return cfg


@cache
def mask_model():
    return build(wrapped(mask_rcnn()))


def configured(refiner=None, candidates=None, masks_from="detected"):
    """The model above with other settings, and a list of the numbers of masks it predicts."""
    model, predicted = copy.copy(mask_model()), []
    model.refiner = refiner and TASK_UTILS.build(refiner)
    model.candidates = candidates and TASK_UTILS.build(candidates)
    model.masks_from = masks_from
    forward = type(model.detector.roi_head)._mask_forward

    def counted(x, rois=None, **kwargs):
        predicted.append(len(rois))
        return forward(model.detector.roi_head, x, rois, **kwargs)

    model.detector.roi_head._mask_forward = counted
    return model, predicted


@pytest.mark.parametrize("rescale", [True, False])
def test_masks_are_predicted_after_the_suppression_only(rescale):
    nms = dict(type="EnergyGuidedNMS", score_thr=0.0, max_per_img=5)
    model, predicted = configured(candidates=nms)
    data = batch(model)
    found = predict(model, data, rescale=rescale)
    assert predicted == [sum(len(sample.pred_instances) for sample in found)] == [10]
    # They are those of the survivors' boxes.
    (width, height) = data["data_samples"][0].scale_factor if rescale else (1, 1)
    boxes = [sample.pred_instances[:] for sample in found]
    for each in boxes:
        each.bboxes = each.bboxes * torch.tensor([width, height, width, height]).float()
    with torch.no_grad():
        maps = model.detector.extract_feat(batch(model)["inputs"])
        metainfo = [sample.metainfo for sample in data["data_samples"]]
        again = model.detector.roi_head.predict_mask(maps, metainfo, boxes, rescale=rescale)
    for a, b in zip(found, again):
        assert a.pred_instances.masks.shape == b.masks.shape
        assert (a.pred_instances.masks != b.masks).float().mean() < 1e-3  # rounding at the border


@pytest.mark.parametrize("candidates", [None, dict(type="EnergyGuidedNMS", score_thr=0.2)])
def test_masks_of_refined_boxes_by_a_switch(candidates):
    refiner = dict(type="GradientAscentRefiner", step_size=0.3, num_steps=4)
    before, detected, refined = (
        predict(model, batch(model))
        for model, _ in (
            configured(None, candidates),
            configured(refiner, candidates),
            configured(refiner, candidates, "refined"),
        )
    )
    for base, a, b in zip(before, detected, refined):
        base, a, b = (each.pred_instances for each in (base, a, b))
        assert len(base)
        assert torch.equal(base.masks, a.masks)
        assert torch.equal(a.bboxes, b.bboxes)
        assert torch.equal(a.scores, b.scores)
        assert a.masks.shape == b.masks.shape
        assert not torch.equal(a.masks, b.masks)
        # A mask lies in its box: those of refined boxes lie in the refined ones.
        x = torch.arange(b.masks.shape[2]) + 0.5
        columns = b.masks.any(1)
        outside = columns & ((x < b.bboxes[:, None, 0] - 2) | (x > b.bboxes[:, None, 2] + 2))
        assert not outside.any()


def test_the_log_says_which_boxes_masks_belong_to(log):
    make(wrapped(mask_rcnn()))
    assert any("Masks belong to the detected boxes" in line for line in log)
    make(wrapped(mask_rcnn(), masks_from="refined"))
    assert any("Masks belong to the refined boxes" in line for line in log)
    assert not any("zeros" in line for line in log)


def test_masks_without_any_detection():
    detector = mask_rcnn()
    detector.test_cfg.rcnn.score_thr = 1.5
    nms = dict(type="EnergyGuidedNMS", score_thr=1.5)
    model = make(wrapped(detector, candidates=nms, masks_from="refined"))
    for sample in predict(model, batch(model)):
        assert len(sample.pred_instances) == 0
        assert sample.pred_instances.masks.shape[0] == 0


def test_the_switch_is_refused_where_it_would_do_nothing():
    with pytest.raises(ValueError, match="FasterRCNN has no roi_head.predict_mask"):
        make(wrapped(detector_cfg("faster_rcnn"), masks_from="refined"))
    with pytest.raises(ValueError, match="masks_from='boxes'; use 'detected' or 'refined'"):
        make(wrapped(detector_cfg("faster_rcnn"), masks_from="boxes"))


def narrow(value, name: str = ""):
    """The config of a part with fewer channels and classes."""
    if isinstance(value, dict):
        return type(value)({key: narrow(each, key) for key, each in value.items()})
    if isinstance(value, list):
        return [narrow(each, name) for each in value]
    if name == "num_classes":
        return NUM_CLASSES if value == 80 else 5
    return {256: 16, 1024: 32}.get(value, value) if name.endswith("channels") else value


@pytest.mark.parametrize("path", ["htc/htc_r50_fpn_1x_coco.py", "scnet/scnet_r50_fpn_1x_coco.py"])
def test_masks_that_want_more_than_boxes(path):
    cfg = small(path)
    cfg.roi_head = narrow(cfg.roi_head)
    cfg.neck.out_channels = cfg.rpn_head.in_channels = cfg.rpn_head.feat_channels = 16
    cfg.test_cfg.rpn.update(max_per_img=50)
    cfg.test_cfg.rcnn.update(score_thr=0.0, max_per_img=8)
    nms = dict(type="EnergyGuidedNMS", score_thr=0.0, max_per_img=5)
    model = build(wrapped(cfg, candidates=nms, masks_from="refined"))
    detector, data = model.detector, batch(model)
    own = predict(detector, data, rescale=True)
    again = [sample.new(pred_instances=sample.pred_instances[:]) for sample in own]
    with torch.no_grad():
        feats = detector.extract_feat(data["inputs"])
        predict_masks(detector, feats, again, rescale=True, replace=True)
    for a, b in zip(own, again):
        assert len(a.pred_instances)
        # Boxes have been divided and multiplied by the scale: rounding at the border.
        assert (a.pred_instances.masks != b.pred_instances.masks).float().mean() < 1e-3
    for sample in predict(model, batch(model)):
        assert sample.pred_instances.masks.shape[0] == len(sample.pred_instances) == 5


def rock(detector: ConfigDict) -> dict:
    scene = dict(type="SceneTask", num_scenes=3)
    block = dict(type="ROCKBlock", in_channels=64, mid_channels=8, tasks=dict(scene=scene))
    return dict(type="ROCKDetector", detector=detector, block=block)


def test_masks_of_a_detector_inside_another_one():
    nms = dict(type="EnergyGuidedNMS", score_thr=0.0, max_per_img=5)
    model = build(wrapped(rock(mask_rcnn()), candidates=nms, masks_from="refined"))
    assert model.feature_sources == ("detector.neck",)
    for sample in predict(model, batch(model)):
        assert sample.pred_instances.masks.shape == (5, 128, 160)
        assert "pred_scene" in sample
