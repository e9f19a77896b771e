"""Standard deviations in pixels follow the boxes, in whichever way these are changed."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.testing import demo_mm_inputs
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from ebm_mmdet.models import UncertainInstances, covariance_to_side_std, side_std_to_covariance
from ebm_mmdet.models.test_time_augs.ebm_tta_model import flip_back
from tests.ebm_mmdet.models.kl_toys import build_mask_rcnn
from tests.ebm_mmdet.models.toys import NUM_CLASSES, batch, build, ebm_cfg
from tests.tolerances import TOLERANCE

BOXES = torch.tensor([[10.0, 20, 50, 70], [0, 0, 30, 20], [5, 5, 25, 25]])
SIDE_STD = torch.tensor([[4.0, 1, 1, 4], [0.5, 2, 2, 3], [1.0, 2, 3, 4]])
CLOSE = dict(rtol=1e-4, atol=1e-5)


def instances(**fields) -> UncertainInstances:
    covariance = side_std_to_covariance(BOXES, SIDE_STD)
    return UncertainInstances(bboxes=BOXES.clone(), box_cov=covariance, **fields)


@pytest.mark.parametrize("scale", [(2.0, 2.0), (0.5, 3.0)])
def test_rescaled_boxes_have_rescaled_standard_deviations(scale):
    """side_std(s * bboxes) == s * side_std(bboxes), also where mmdet writes in place."""
    factor = torch.tensor([*scale, *scale])
    found = instances()
    torch.testing.assert_close(found.side_std, SIDE_STD, **CLOSE)
    found.bboxes *= factor
    torch.testing.assert_close(found.side_std, SIDE_STD * factor, **CLOSE)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[[2, 0]],
        lambda x: x[torch.tensor([True, False, True])],
        lambda x: x[1:],
        lambda x: x[:0],
        lambda x: InstanceData.cat([x, x[:1]]),
        lambda x: x.to("cpu"),
        lambda x: x.detach(),
        lambda x: x.clone(),
        copy.deepcopy,
        lambda x: pickle.loads(pickle.dumps(x)),
    ],
)
def test_what_mmengine_makes_of_them_knows_it_too(change):
    found = change(instances(scores=torch.rand(3)))
    assert "side_std" in found
    assert found.side_std.shape == (len(found), 4)
    expected = covariance_to_side_std(found.bboxes, found.box_cov)
    torch.testing.assert_close(found.side_std, expected)


def test_metrics_and_dumps_receive_it():
    sample = DetDataSample(pred_instances=instances())
    found = sample.to_dict()["pred_instances"]
    torch.testing.assert_close(found["side_std"], SIDE_STD, **CLOSE)


def test_it_follows_and_is_not_set():
    found = instances()
    for assign in (
        lambda: setattr(found, "side_std", SIDE_STD),
        lambda: found.set_field(SIDE_STD, "side_std"),
        lambda: UncertainInstances(bboxes=BOXES, side_std=SIDE_STD),
    ):
        with pytest.raises(AttributeError, match="box_cov"):
            assign()
    assert "side_std" not in InstanceData(bboxes=BOXES)
    assert "side_std" not in UncertainInstances(bboxes=BOXES)
    plain = InstanceData(bboxes=BOXES, box_cov=found.box_cov, side_std=SIDE_STD, scores=BOXES[:, 0])
    taken = UncertainInstances.of(plain)
    assert set(taken.keys()) == {"bboxes", "box_cov", "scores"}
    torch.testing.assert_close(taken.side_std, SIDE_STD, **CLOSE)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_mask_head_rescales_boxes_later(wrapped):
    """With masks mmdet predicts in network pixels, and divides boxes by the scale afterwards."""
    model = build_mask_rcnn()
    if wrapped:
        cfg = ebm_cfg(detector=build_mask_rcnn(cfg_only=True), refiner=None)
        outer = build(cfg)
        outer.detector.load_state_dict(model.state_dict())
        model = outer
    data = demo_mm_inputs(1, [(3, 64, 96)], num_items=[1], num_classes=NUM_CLASSES, with_mask=True)
    data = model.data_preprocessor(data, False)
    (sample,) = data["data_samples"]
    sample.set_metainfo(dict(ori_shape=(32, 24), scale_factor=(4.0, 2.0)))
    with torch.no_grad():
        scaled, plain = (
            model.predict(data["inputs"], [copy.deepcopy(sample)], rescale=rescale)[0]
            for rescale in (True, False)
        )
    scaled, plain = scaled.pred_instances, plain.pred_instances
    factor = torch.tensor([4.0, 2, 4, 2])
    assert len(scaled) > 0
    assert scaled.masks.shape[1:] == (32, 24)
    torch.testing.assert_close(scaled.bboxes * factor, plain.bboxes, **TOLERANCE[torch.float32])
    # A side under a pixel counts as one, which depends on the scale.
    large = (scaled.bboxes[:, 2:] - scaled.bboxes[:, :2] > 1).all(1)
    assert large.any()
    found, expected = scaled.side_std * factor, plain.side_std
    torch.testing.assert_close(found[large], expected[large], rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------------- flips


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "diagonal"])
def test_flipping_back(direction):
    """A box with one side known better keeps that side known better, on the other side."""
    shape = (100, 80)
    meta = dict(flip=True, flip_direction=direction, ori_shape=shape)
    samples = BOXES[:, None] + torch.rand(3, 5, 4)
    seen = instances(scores=torch.rand(3), box_samples=samples)
    back = flip_back(seen, meta)
    order = {"horizontal": [2, 1, 0, 3], "vertical": [0, 3, 2, 1], "diagonal": [2, 3, 0, 1]}
    torch.testing.assert_close(back.side_std, SIDE_STD[:, order[direction]], **CLOSE)
    assert torch.equal(back.scores, seen.scores)
    centre = 0.5 * (seen.bboxes[:, :2] + seen.bboxes[:, 2:])
    moved = 0.5 * (back.bboxes[:, :2] + back.bboxes[:, 2:])
    size = torch.tensor([shape[1], shape[0]])
    axes = dict(horizontal=[True, False], vertical=[False, True], diagonal=[True, True])[direction]
    expected = torch.where(torch.tensor(axes), size - centre, centre)
    torch.testing.assert_close(moved, expected)
    for s in range(5):
        alone = flip_back(InstanceData(bboxes=samples[:, s]), meta)
        torch.testing.assert_close(back.box_samples[:, s], alone.bboxes)
    again = flip_back(back, meta)
    for key in ("bboxes", "box_cov", "box_samples"):
        torch.testing.assert_close(again[key], seen[key])
    torch.testing.assert_close(seen.bboxes, BOXES)  # what came in is not changed
    stored = InstanceData(bboxes=BOXES, side_std=SIDE_STD)
    assert torch.equal(flip_back(stored, meta).side_std, SIDE_STD[:, order[direction]])
    assert flip_back(seen, dict(flip=False)) is seen


def tta(model, **overrides):
    nms = dict(type="nms", iou_threshold=0.5)
    cfg = dict(type="EBMTTAModel", tta_cfg=ConfigDict(nms=nms, max_per_img=20), module=model)
    return MODELS.build({**cfg, **overrides}).eval()


def views(model, flips=(True, False)):
    data = batch(model, num_items=(2,))
    (sample,) = data["data_samples"]
    sample.set_metainfo(dict(ori_shape=(128, 160), scale_factor=(1.0, 1.0)))
    samples = []
    for flip in flips:
        view = copy.deepcopy(sample)
        view.set_metainfo(dict(flip=flip, flip_direction="horizontal" if flip else None))
        samples.append(view)
    images = [data["inputs"].flip(3) if flip else data["inputs"] for flip in flips]
    return images, samples


def test_test_time_augmentation_keeps_the_fields():
    """Merged from one view it is the view after NMS; a mirrored view gives mirrored fields."""
    prior = dict(std=[0.05] * 4)
    model = build(ebm_cfg(refiner=dict(type="ImportanceMeanRefiner", prior=prior)))
    merger = tta(model)
    images, samples = views(model)
    with torch.no_grad():
        predictions = [
            model.predict(image, [copy.deepcopy(view)])[0] for image, view in zip(images, samples)
        ]
    alone = [copy.deepcopy(view.pred_instances) for view in predictions]
    (merged,) = merger.merge_preds([predictions])
    found = merged.pred_instances
    assert 0 < len(found) <= 20
    flipped = flip_back(alone[0], samples[0].metainfo)
    every = torch.cat([flipped.bboxes, alone[1].bboxes])
    rows = (every[None] - found.bboxes[:, None]).abs().sum(2).argmin(1)
    for key in ("log_density", "ess", "box_cov", "box_std", "accepted_steps", "log_prob"):
        expected = torch.cat([flipped[key], alone[1][key]])[rows]
        torch.testing.assert_close(found[key], expected)
    assert found.side_std.shape == (len(found), 4)


def test_test_time_augmentation_merges_boxes_as_mmdet_does():
    model = build(ebm_cfg())
    images, samples = views(model)
    with torch.no_grad():
        predictions = [
            model.predict(image, [copy.deepcopy(view)])[0] for image, view in zip(images, samples)
        ]
    ours = tta(model).merge_preds([copy.deepcopy(predictions)])[0].pred_instances
    theirs = tta(model, type="DetTTAModel").merge_preds([predictions])[0].pred_instances
    for key in ("bboxes", "scores", "labels"):
        torch.testing.assert_close(ours[key], theirs[key])


def test_test_time_augmentation_without_detections_and_with_masks():
    model = build(ebm_cfg())
    _, samples = views(model)
    for sample in samples:
        sample.pred_instances = InstanceData(
            bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long()
        )
    (merged,) = tta(model).merge_preds([samples])
    assert len(merged.pred_instances) == 0
    samples[0].pred_instances.masks = torch.zeros(0, 4, 4)
    with pytest.raises(NotImplementedError, match="masks"):
        tta(model).merge_preds([samples])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["nms", "soft_nms"])
def test_test_time_augmentation_of_a_box_that_is_not_finite(kind, value):
    """mmcv's NMS would suppress nothing in the image, and soft-NMS make all scores NaN."""
    model = build(ebm_cfg())
    _, samples = views(model)
    tta_cfg = dict(nms=dict(type=kind, iou_threshold=0.5), max_per_img=10)

    def merged(*broken: int):
        for sample in samples:
            sample.set_metainfo(dict(flip=False))
            sample.pred_instances = InstanceData(
                bboxes=BOXES.clone(),
                scores=torch.tensor([0.9, 0.8, 0.7]),
                labels=torch.tensor([0, 0, 1]),
                row=torch.arange(3),
            )
            sample.pred_instances.bboxes[list(broken), 2] = value
        return tta(model, tta_cfg=tta_cfg).merge_preds([copy.deepcopy(samples)])[0].pred_instances

    expected, found = merged(), merged(1)
    assert set(found.row.tolist()) == {0, 2}
    rest = expected[expected.row != 1]
    for key in ("bboxes", "scores", "row"):
        torch.testing.assert_close(found[key], rest[key])
    assert len(merged(0, 1, 2)) == 0


def test_test_time_augmentation_keeps_fields_of_any_kind():
    """Arrays and lists of a detector of the user's own, and a standard deviation that is stored."""
    model = build(ebm_cfg())
    _, samples = views(model)
    for side, sample in zip("ab", samples):
        sample.pred_instances = InstanceData(
            bboxes=BOXES.clone(),
            scores=torch.tensor([0.9, 0.8, 0.7]) - 0.01 * (side == "b"),
            labels=torch.arange(3),
            names=[f"{side}{i}" for i in range(3)],
            counts=np.arange(3),
            box_cov=side_std_to_covariance(BOXES, SIDE_STD),
            side_std=SIDE_STD,
        )
    samples[1].set_metainfo(dict(flip=False))
    samples[0].set_metainfo(dict(flip=False))
    (merged,) = tta(model).merge_preds([samples])
    found = merged.pred_instances
    assert found.names == ["a0", "a1", "a2"]
    assert found.counts.tolist() == [0, 1, 2]
    torch.testing.assert_close(found.side_std, SIDE_STD, **CLOSE)
