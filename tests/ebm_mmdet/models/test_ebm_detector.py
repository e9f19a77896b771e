"""EBMDetector: wrapping, freezing, refinement in place, empty inputs, the three spellings."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.datasets import CocoDataset
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps

from ebm_mmdet.datasets.shapes import CLASSES, write_coco
from ebm_mmdet.models import EBMDetector
from ebm_mmdet.models.detectors import output_capture
from ebm_ops import PrRoIPool, prroi_pool
from tests.ebm_mmdet.models.toys import NUM_CLASSES, batch, build, ebm_cfg

DETECTORS = ["faster_rcnn", "retinanet", "fcos"]


def digest(module) -> str:
    state = hashlib.sha256()
    for name, value in module.state_dict().items():
        state.update(name.encode() + value.contiguous().numpy().tobytes())
    return state.hexdigest()


def predict(model, data, rescale=True):
    with torch.no_grad():
        return [s.pred_instances for s in model.predict(**rename(data), rescale=rescale)]


def rename(data):
    return {"batch_inputs": data["inputs"], "batch_data_samples": data["data_samples"]}


@pytest.mark.parametrize("name", DETECTORS)
def test_prediction_keeps_scores_and_labels_and_climbs(name):
    model = build(ebm_cfg(name, clip_boxes=False))
    before = build(ebm_cfg(name, refiner=None, clip_boxes=False))
    data = batch(model)
    with torch.no_grad():
        plain = [
            s.pred_instances.clone()
            for s in model.detector.predict(*rename(batch(model)).values(), rescale=True)
        ]
    for found, base, refined in zip(plain, predict(before, batch(model)), predict(model, data)):
        assert len(found) > 0, "the toy detector must detect something"
        assert torch.equal(base.bboxes, found.bboxes)
        for field in ("scores", "labels"):
            assert torch.equal(refined[field], found[field])
        assert (refined.log_density >= base.log_density - 1e-5).all()
        assert refined.accepted_steps.dtype == torch.int64
        moved = (refined.bboxes != base.bboxes).any(1)
        assert torch.equal(moved, refined.accepted_steps > 0)
        assert moved.any()


def test_zero_steps_keep_every_bit():
    cfg = ebm_cfg(refiner=dict(type="GradientAscentRefiner", step_size=1.0, num_steps=0))
    model = build({**cfg, "clip_boxes": False})
    base = build(ebm_cfg(refiner=None, clip_boxes=False))
    for a, b in zip(predict(model, batch(model)), predict(base, batch(base))):
        assert torch.equal(a.bboxes, b.bboxes)


def test_refined_in_network_coordinates_and_then_rescaled():
    model = build(ebm_cfg(clip_boxes=False))
    network = predict(model, batch(model), rescale=False)
    data = batch(model)
    for sample in data["data_samples"]:
        sample.set_metainfo({"scale_factor": (2.0, 0.5)})
    for a, b in zip(network, predict(model, data, rescale=True)):
        scale = torch.tensor([2.0, 0.5, 2.0, 0.5])
        torch.testing.assert_close(a.bboxes, b.bboxes * scale, rtol=1e-3, atol=1e-2)


def test_log_density_is_that_of_the_returned_box():
    model = build(ebm_cfg(clip_boxes=False))
    data = batch(model)
    found = predict(model, data, rescale=False)
    with torch.no_grad():
        feats = model.energy_head.prepare(model.extract_maps(data["inputs"]))
    for i, inst in enumerate(found):
        index = torch.full((len(inst),), i)
        f = model.energy_head.log_density(feats, inst.bboxes[:, None], index, inst.labels)
        torch.testing.assert_close(f[:, 0], inst.log_density, rtol=1e-3, atol=1e-3)


def test_images_do_not_influence_each_other():
    model = build(ebm_cfg())
    together = predict(model, batch(model, num_items=(2, 3)))
    for i in range(2):
        data = batch(model, num_items=(2, 3))
        one = {"inputs": data["inputs"][i : i + 1], "data_samples": data["data_samples"][i : i + 1]}
        (alone,) = predict(model, one)
        torch.testing.assert_close(alone.bboxes, together[i].bboxes, rtol=1e-3, atol=1e-2)


def test_features_are_computed_once():
    model = build(ebm_cfg())
    calls = []
    model.detector.neck.register_forward_hook(lambda *_: calls.append(1))
    predict(model, batch(model))
    assert len(calls) == 1
    model.train().loss(**rename(batch(model, training=True)))
    assert len(calls) == 2


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_prediction_leaves_no_gradient_and_no_features(context):
    model = build(ebm_cfg())
    with context():
        model(**batch(model), mode="predict")
    assert all(p.grad is None for p in model.parameters())
    assert output_capture._listeners.get() == ()


@pytest.mark.parametrize("name", DETECTORS)
def test_frozen_detector_is_byte_identical_after_training(name):
    model = build(ebm_cfg(name)).train()
    before, head_before = digest(model.detector), digest(model.energy_head)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        loss, _ = model.parse_losses(model.loss(**rename(batch(model, training=True))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert digest(model.detector) == before
    assert digest(model.energy_head) != head_before
    assert not any(m.training for m in model.detector.modules())
    assert model.energy_head.training


def test_joint_training_reaches_the_backbone_through_the_energy_head():
    model = build(ebm_cfg(freeze_detector=False)).train()
    losses = model.loss(**rename(batch(model, training=True)))
    assert {"loss_energy", "loss_rpn_cls", "loss_cls", "loss_bbox"} <= losses.keys()
    losses["loss_energy"].backward()
    assert model.detector.backbone.conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("num_items", [(0, 0), (0, 3)])
def test_images_without_ground_truth(num_items):
    model = build(ebm_cfg()).train()
    losses = model.loss(**rename(batch(model, num_items=num_items, training=True)))
    losses["loss_energy"].backward()
    assert torch.isfinite(losses["loss_energy"])
    if num_items == (0, 0):
        assert losses["loss_energy"] == 0
    assert all(p.grad is not None for p in model.energy_head.parameters())


def trained_on(model, data) -> tuple:
    """Boxes, image index and labels that the energy head's loss is given."""
    given = []
    loss = model.energy_head.loss
    model.energy_head.loss = lambda feats, *args, **kwargs: (
        given.append(args) or loss(feats, *args, **kwargs)
    )
    model.loss(**rename(data))
    del model.energy_head.loss
    return given[0]


def test_ignored_and_degenerate_boxes_are_not_trained_on():
    model = build(ebm_cfg()).train()
    data = batch(model, num_items=(3,), training=True)
    sample = data["data_samples"][0]
    sample.ignored_instances = sample.gt_instances[[0]]
    sample.gt_instances.bboxes[1, 2] = sample.gt_instances.bboxes[1, 0] + 0.5
    sample.gt_instances.bboxes[2, 3] = float("nan")
    boxes, index, labels = trained_on(model, data)
    assert torch.equal(boxes, sample.gt_instances.bboxes[:1])
    assert index.tolist() == [0]
    assert torch.equal(labels, sample.gt_instances.labels[:1])


def test_a_crowd_of_the_annotations_is_not_trained_on(tmp_path):
    file = write_coco(tmp_path, "train", 1, seed=0, num_shapes=(4, 4))
    content = json.loads(file.read_text())
    content["annotations"][1]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
    dataset = CocoDataset(
        data_root=str(tmp_path),
        ann_file="annotations/train.json",
        data_prefix=dict(img="images/"),
        metainfo=dict(classes=CLASSES),
        pipeline=[*load, dict(type="PackDetInputs")],
    )
    model = build(ebm_cfg()).train()
    data = model.data_preprocessor({key: [value] for key, value in dataset[0].items()}, True)
    count = len(content["annotations"])
    boxes, *_ = trained_on(model, data)
    assert len(boxes) == count - 1 > 0
    crowd = torch.tensor(content["annotations"][1]["bbox"])
    assert (boxes[:, :2] - crowd[:2]).abs().sum(1).min() > 1
    losses = model.loss(**rename(data))
    # The loss divides by the boxes that are trained on: a crowd alone gives zero.
    assert losses["loss_energy"] > 0
    sample = data["data_samples"][0]
    assert len(sample.ignored_instances) == 1
    sample.gt_instances = sample.gt_instances[:0]
    assert model.loss(**rename(data))["loss_energy"] == 0


@pytest.mark.parametrize("candidates", [None, dict(type="EnergyGuidedNMS", score_thr=1.5)])
def test_no_detections(candidates):
    cfg = ebm_cfg(candidates=candidates)
    cfg["detector"].test_cfg.rcnn.score_thr = 1.5
    model = build(cfg)
    for inst in predict(model, batch(model)):
        assert inst.bboxes.shape == (0, 4)
        assert inst.log_density.shape == inst.accepted_steps.shape == (0,)


def test_boxes_are_clipped_to_the_image_unless_told_otherwise():
    refiner = dict(type="GradientAscentRefiner", step_size=0.5, num_steps=3)
    free = build(ebm_cfg(refiner=refiner, clip_boxes=False))
    clipped = build(ebm_cfg(refiner=refiner))
    outside = False
    unclipped = predict(free, batch(free), rescale=False)
    for a, b in zip(unclipped, predict(clipped, batch(clipped), rescale=False)):
        limit = torch.tensor([160.0, 128, 160, 128])
        outside |= bool((a.bboxes < 0).any() or (a.bboxes > limit).any())
        torch.testing.assert_close(b.bboxes, torch.minimum(a.bboxes.clamp(min=0), limit))
    assert outside, "the test must push a box out of the image"


@pytest.mark.parametrize("rescale", [True, False])
def test_boxes_are_clipped_to_the_image_and_not_to_its_padding(rescale):
    pipeline = Compose(
        [
            dict(type="Resize", scale=(160, 160), keep_ratio=True),
            dict(type="Pad", size=(160, 160)),  # overwrites img_shape
            dict(type="PackDetInputs"),
        ]
    )
    image = np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)
    packed = pipeline(dict(img=image, img_id=0, img_path="", ori_shape=(64, 128)))
    refiner = dict(type="GradientAscentRefiner", step_size=0.5, num_steps=3)
    model = build(ebm_cfg(refiner=refiner, clip_boxes="all"))
    data = {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}
    (found,) = predict(model, model.data_preprocessor(data), rescale)
    width, height = (128, 64) if rescale else (160, 80)
    assert found.bboxes[:, 1::2].max() == pytest.approx(height)  # some box is cut off there
    assert (found.bboxes[:, ::2] <= width).all()


def test_the_papers_pipeline_selects_from_all_boxes_above_the_threshold():
    cfg = ebm_cfg(
        candidates=dict(type="EnergyGuidedNMS", score_thr=0.01, max_per_img=40), refiner=None
    )
    cfg["detector"].test_cfg.rcnn.max_per_img = 3
    model = build(cfg)
    roi_cfg = model.detector.roi_head.test_cfg
    found = predict(model, batch(model))
    assert model.detector.roi_head.test_cfg is roi_cfg, "the detector's own test_cfg is restored"
    for inst in found:
        assert 3 < len(inst) <= 40
        assert (inst.scores[:-1] >= inst.scores[1:]).all()
        for label in range(NUM_CLASSES):
            boxes = inst.bboxes[inst.labels == label]
            overlaps = bbox_overlaps(boxes, boxes).fill_diagonal_(0)
            assert not (overlaps > 0.5 + 1e-5).any()


def test_candidates_need_a_detector_with_nms():
    model = build(ebm_cfg(candidates=dict(type="EnergyGuidedNMS")))
    del model.detector.roi_head.test_cfg["nms"]
    with pytest.raises(ValueError, match="FasterRCNN has no NMS .* candidates=None"):
        predict(model, batch(model))


@pytest.mark.parametrize(
    "spelling",
    ["EBMDetector", "ebm_mmdet.EBMDetector", "ebm_mmdet.models.detectors.EBMDetector"],
)
def test_three_ways_to_name_a_type(spelling):
    assert isinstance(MODELS.build({**ebm_cfg(), "type": spelling}), EBMDetector)


def test_unknown_feature_source_lists_the_choices():
    with pytest.raises(ValueError, match="no 'nek'.*backbone, neck"):
        MODELS.build(ebm_cfg(feature_source="nek"))


def test_a_feature_source_that_does_not_run_is_named():
    """The box head is a module of the detector, but no part of its features."""
    given = dict(strides=[4, 8, 16, 32], feature_levels=[0, 1, 2, 3])  # nothing is to be found
    model = build(ebm_cfg(head=given, feature_source=("neck", "roi_head.bbox_head"))).train()
    data = batch(model, training=True)
    with pytest.raises(
        RuntimeError, match=r"'roi_head\.bbox_head' did not run.*: backbone, neck, "
    ) as raised:
        model.loss(data["inputs"], data["data_samples"])
    assert "head" not in str(raised.value).partition("sequence of maps: ")[2]
    assert not output_capture._listeners.get()


def test_a_feature_source_that_gives_no_maps_is_named():
    model = build(ebm_cfg())
    neck = model.detector.neck.forward
    model.detector.neck.forward = lambda x: dict(enumerate(neck(x)))
    with pytest.raises(RuntimeError, match="'neck' gives dict"):
        model.extract_feat(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("training", [True, False])
def test_wrong_strides_are_named_with_what_was_found(training):
    model = build(ebm_cfg(head=dict(strides=[8, 16, 32, 64], feature_levels=[0, 1, 2, 3])))
    data = rename(batch(model, training=training))
    message = r"level 0 .* 32 x 40 cells, but stride 8 .* gives 16 x 20 .* 128 x 160 .* about 4"
    with pytest.raises(ValueError, match=message):
        (model.loss if training else model.predict)(**data)


def test_features_of_several_modules_follow_one_another():
    model = build(ebm_cfg(feature_source=["neck", "backbone.layer1"])).eval()
    images = torch.randn(1, 3, 64, 96)
    maps = model.extract_maps(images)
    neck = model.detector.extract_feat(images)
    assert len(maps) == len(neck) + 1
    assert all(torch.equal(a, b) for a, b in zip(maps, neck))
    assert maps[-1].shape[2:] == (16, 24)
    assert output_capture._listeners.get() == ()


def test_our_pooling_fits_the_roi_extractors_of_mmdet():
    extractor = SingleRoIExtractor(
        # The class: the string names mmcv's operator, which has no CPU version.
        roi_layer=dict(type=PrRoIPool, output_size=7),
        out_channels=4,
        featmap_strides=[4, 8],
    )
    maps = [torch.randn(1, 4, 32, 32), torch.randn(1, 4, 16, 16)]
    rois = torch.tensor([[0.0, 8, 8, 40, 40], [0, 0, 0, 127, 127]])
    pooled = extractor(maps, rois)
    expected = [
        prroi_pool(m, rois[i : i + 1], 7, s) for i, (m, s) in enumerate(zip(maps, (1 / 4, 1 / 8)))
    ]
    torch.testing.assert_close(pooled, torch.cat(expected))


def test_trunk_starts_from_the_box_head_when_it_fits():
    model = build(ebm_cfg())
    for layer, source in zip(model.energy_head.trunk, model.detector.roi_head.bbox_head.shared_fcs):
        assert torch.equal(layer.weight, source.weight)
        assert torch.equal(layer.bias, source.bias)
    other = build(ebm_cfg(head=dict(fc_channels=[32, 48])))
    assert "starts fresh" in other.init_trunk()
    fresh = build(ebm_cfg(init_trunk_from=None))
    shared = fresh.detector.roi_head.bbox_head.shared_fcs
    assert not torch.equal(fresh.energy_head.trunk[0].weight, shared[0].weight)
