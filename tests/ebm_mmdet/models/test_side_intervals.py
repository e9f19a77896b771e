"""Calibrated intervals of sides: where they come from, and what happens to the boxes later."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from ebm_mmdet.energy import evaluate_only
from ebm_mmdet.models import UncertainInstances, side_std_to_covariance
from ebm_mmdet.models.detectors.side_intervals import (
    META_KEY,
    SPREADS,
    SideIntervals,
    attach_intervals,
    relative_spread,
)
from ebm_mmdet.models.test_time_augs.ebm_tta_model import flip_back
from tests.ebm_mmdet.models.kl_toys import build_mask_rcnn
from tests.ebm_mmdet.models.test_uncertain_instances import BOXES, CLOSE, SIDE_STD, tta, views
from tests.ebm_mmdet.models.toys import NUM_CLASSES, batch, build, detector_cfg, ebm_cfg
from tests.tolerances import TOLERANCE

IMPORTANCE = dict(type="ImportanceMeanRefiner", prior=dict(std=[0.05] * 4), num_samples=16)


def intervals(spread: str = "std", joint: bool = False, seed: int = 0) -> SideIntervals:
    generator = torch.Generator().manual_seed(seed)
    bounds = 1 + torch.rand(NUM_CLASSES + 1, 4, 1 if joint else 4, generator=generator)
    return SideIntervals(0.9, joint, spread, bounds)


def sample_of(**fields) -> DetDataSample:
    found = InstanceData(
        bboxes=BOXES.clone(), labels=torch.tensor([0, 2, NUM_CLASSES + 5]), **fields
    )
    return DetDataSample(metainfo=dict(scale_factor=(2.0, 4.0)), pred_instances=found)


def covariance() -> torch.Tensor:
    return side_std_to_covariance(BOXES, SIDE_STD)


def expected(one: SideIntervals, spread: torch.Tensor) -> torch.Tensor:
    """Row by row: class 0 and an area of 40 x 50, class 2 of 30 x 20, no class of 20 x 20."""
    bounds = torch.stack([one.bounds[0, 1], one.bounds[2, 0], one.bounds[-1, 0]])
    return torch.stack((BOXES - bounds * spread, BOXES + bounds * spread), dim=-1)


@pytest.mark.parametrize("joint", [False, True])
def test_an_interval_is_the_box_plus_and_minus_its_bound_times_the_spread(joint):
    one = intervals(joint=joint)
    sizes = torch.tensor([[40.0, 50, 40, 50], [30, 20, 30, 20], [20, 20, 20, 20]])
    for kind, fields, spread in (
        ("std", dict(box_cov=covariance()), SIDE_STD),
        ("std", dict(side_std=SIDE_STD), SIDE_STD),
        ("size", {}, sizes),
        ("pixels", {}, torch.ones(3, 4)),
    ):
        one.spread = kind
        sample = sample_of(**fields)
        one.add_to(sample)
        found = sample.pred_instances
        torch.testing.assert_close(found.side_interval, expected(one, spread), **CLOSE)
        assert found.side_interval.shape == (3, 4, 2)
        assert "side_interval" in found
        assert "side_interval" in found.to_dict()
        assert ("side_std" in found) == (kind == "std")
        assert "side_interval" not in found.keys()  # noqa: SIM118  (computed, not stored)
    with pytest.raises(AttributeError, match="interval_reach"):
        found.side_interval = torch.zeros(3, 4, 2)


def test_quantiles_of_samples_may_be_nearer_on_one_side():
    drawn = BOXES[:, None] + torch.linspace(-1, 4, 101)[None, :, None]
    spread = relative_spread(InstanceData(bboxes=BOXES, box_samples=drawn), "samples", 0.9)
    sizes = torch.tensor([[40.0, 50, 40, 50], [30, 20, 30, 20], [20, 20, 20, 20]])
    pixels = spread * sizes[..., None]
    torch.testing.assert_close(pixels[..., 0], torch.full((3, 4), 0.75), **CLOSE)
    torch.testing.assert_close(pixels[..., 1], torch.full((3, 4), 3.75), **CLOSE)
    outside = relative_spread(InstanceData(bboxes=BOXES + 10, box_samples=drawn), "samples", 0.9)
    assert (outside[..., 1] == 1e-3).all()  # a box above all of its samples


@pytest.mark.parametrize("kind", ["std", "size", "pixels", "samples"])
def test_network_pixels_and_pixels_of_the_file_mean_the_same(kind):
    """Intervals of boxes in the network's input are those of the file, scaled."""
    factor = torch.tensor([2.0, 4, 2, 4])
    one = intervals(kind)
    samples = BOXES[:, None] + torch.rand(3, 9, 4)
    in_file = sample_of(box_cov=covariance(), box_samples=samples)
    one.add_to(in_file)
    in_network = sample_of(box_cov=covariance(), box_samples=samples * factor)
    in_network.pred_instances.bboxes *= factor
    one.add_to(in_network, rescale=False)
    scaled = in_file.pred_instances.side_interval * factor[:, None]
    torch.testing.assert_close(in_network.pred_instances.side_interval, scaled, **CLOSE)
    in_network.pred_instances.bboxes /= factor  # as mmdet does with masks
    back = in_network.pred_instances.side_interval
    torch.testing.assert_close(back, in_file.pred_instances.side_interval, **CLOSE)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[[2, 0]],
        lambda x: x[torch.tensor([True, False, True])],
        lambda x: x[:0],
        lambda x: InstanceData.cat([x, x[:1]]),
        lambda x: x.to("cpu"),
        lambda x: x.clone(),
        copy.deepcopy,
        lambda x: pickle.loads(pickle.dumps(x)),
    ],
)
def test_what_mmengine_makes_of_them_keeps_the_intervals(change):
    sample = sample_of(box_cov=covariance())
    intervals().add_to(sample)
    before = sample.pred_instances
    after = change(before)
    assert isinstance(after, UncertainInstances)
    rows = [before.bboxes.tolist().index(box) for box in after.bboxes.tolist()]
    torch.testing.assert_close(after.side_interval, before.side_interval[rows])


@pytest.mark.parametrize("direction", ["horizontal", "vertical", "diagonal"])
def test_flipping_back_mirrors_the_ends(direction):
    """The lower end of a mirrored left side is the upper end of the right side."""
    width, height = 80, 100
    sample = sample_of()
    intervals("size").add_to(sample)
    seen = sample.pred_instances
    seen.interval_reach = torch.rand(3, 4, 2)
    meta = dict(flip=True, flip_direction=direction, ori_shape=(height, width))
    back = flip_back(seen, meta)
    ends = seen.side_interval
    if direction != "vertical":
        ends = torch.stack(
            (width - ends[:, 2].flip(1), ends[:, 1], width - ends[:, 0].flip(1), ends[:, 3]), 1
        )
    if direction != "horizontal":
        ends = torch.stack(
            (ends[:, 0], height - ends[:, 3].flip(1), ends[:, 2], height - ends[:, 1].flip(1)), 1
        )
    torch.testing.assert_close(back.side_interval, ends)
    torch.testing.assert_close(flip_back(back, meta).side_interval, seen.side_interval)


def test_a_calibrated_detector_gives_intervals_with_its_own_refiner_alone():
    model = build(ebm_cfg(refiner=IMPORTANCE))
    data = batch(model)
    plain = predict(model, data)
    assert "side_interval" not in plain
    attach_intervals(model, intervals())
    found = predict(model, data)
    assert torch.equal(found.bboxes, plain.bboxes)
    assert "side_interval" in found
    half = (found.side_interval[..., 1] - found.side_interval[..., 0]) / 2
    assert ((half / found.side_std - 1.5).abs() < 0.51).all()
    for other in (copy.deepcopy(model), saved(model)):
        torch.testing.assert_close(predict(other, data).side_interval, found.side_interval)
    assert "side_interval" not in predict(model, data, refiner=evaluate_only)
    attach_intervals(model, None)
    assert "side_interval" not in predict(model, data)


def predict(model: nn.Module, data: dict, **kwargs) -> InstanceData:
    torch.manual_seed(0)
    with torch.no_grad():
        samples = [sample.clone() for sample in data["data_samples"]]
        return model.predict(data["inputs"], samples, **kwargs)[0].pred_instances


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("kind", ["std", "size"])
def test_a_detector_without_an_energy_head_gives_them_when_it_is_called(kind):
    """KL-Loss with masks: boxes that mmdet has rescaled; and any detector, from sizes."""
    model = build_mask_rcnn() if kind == "std" else build(detector_cfg("fcos"))
    data = batch(model, num_items=(2,))
    data["data_samples"][0].set_metainfo(dict(scale_factor=(2.0, 4.0), ori_shape=(32, 80)))
    for _ in range(2):  # twice leaves one hook
        attach_intervals(model, intervals(kind))
    assert len(model._forward_hooks) == 1
    for one in (model, copy.deepcopy(model)):
        with torch.no_grad():
            (sample,) = one(data["inputs"], [data["data_samples"][0].clone()], mode="predict")
            if kind == "size":
                one(data["inputs"], mode="tensor")  # gives no predictions, and no error
        found = sample.pred_instances
        low, high = found.side_interval.unbind(-1)
        assert len(found) > 0
        assert ((low < found.bboxes) & (found.bboxes < high)).all()
        if kind == "std":
            ratio = (high - low) / 2 / found.side_std
            assert ((ratio > 0.99) & (ratio < 2.01)).all()
    attach_intervals(model, None)
    assert not model._forward_hooks


def test_test_time_augmentation_keeps_them():
    model = build(ebm_cfg(refiner=IMPORTANCE))
    attach_intervals(tta(model), intervals())  # reaches the model inside
    assert model.side_intervals is not None
    images, samples = views(model)
    with torch.no_grad():
        predictions = [model.predict(i, [copy.deepcopy(v)])[0] for i, v in zip(images, samples)]
    alone = [view.pred_instances for view in copy.deepcopy(predictions)]
    (merged,) = tta(model).merge_preds([predictions])
    found = merged.pred_instances
    every = [flip_back(alone[0], samples[0].metainfo), alone[1]]
    boxes = torch.cat([each.bboxes for each in every])
    rows = (boxes[None] - found.bboxes[:, None]).abs().sum(2).argmin(1)
    ends = torch.cat([each.side_interval for each in every])[rows]
    torch.testing.assert_close(found.side_interval, ends, **TOLERANCE[torch.float32])


def test_what_is_unknown_has_no_finite_interval():
    std = SIDE_STD.clone()
    std[0, 1], std[1], std[2] = torch.nan, torch.inf, 0
    sample = sample_of(side_std=std)
    one = intervals()
    one.bounds[:] = 0  # 0 x inf
    one.add_to(sample)
    reach = sample.pred_instances.interval_reach
    assert reach[0, 1].isinf().all()
    assert reach[1].isinf().all()
    assert (reach[2] == 0).all()
    empty = sample_of(box_cov=covariance())
    empty.pred_instances = empty.pred_instances[:0]
    one.add_to(empty)
    assert empty.pred_instances.side_interval.shape == (0, 4, 2)


def test_detections_without_a_spread_are_refused_with_the_remedy():
    samples = dict(box_samples=torch.rand(3, 5, 4))
    for kind, wanted, there, others in (
        ("std", "box_cov", {}, "size, pixels"),
        ("samples", "box_samples", {}, "size, pixels"),
        ("std", "box_cov", samples, "samples, size, pixels"),
        ("samples", "box_samples", dict(side_std=SIDE_STD), "std, size, pixels"),
    ):
        with pytest.raises(
            ValueError, match=rf"{wanted}.*calibrate with another spread: {others}$"
        ):
            intervals(kind).add_to(sample_of(**there))
    with pytest.raises(ValueError, match="use one of std, samples"):
        intervals("sigma")
    with pytest.raises(ValueError, match=r"expected \(classes \+ 1, 4, 4\)"):
        SideIntervals(0.9, False, "std", torch.ones(3, 4, 1))


@pytest.mark.parametrize("kind", SPREADS)
def test_a_checkpoint_holds_them_as_plain_values(kind, tmp_path):
    one = intervals(kind, joint=kind == "size")
    one.facts = dict(images=3)
    torch.save(dict(meta={META_KEY: one.to_meta()}), tmp_path / "a.pth")
    meta = torch.load(tmp_path / "a.pth", weights_only=True)["meta"]
    same = SideIntervals.from_meta(meta)
    assert torch.equal(same.bounds, one.bounds)
    assert same.to_meta() == one.to_meta()
    assert SideIntervals.from_meta({}) is None
    del meta[META_KEY]["level"]
    with pytest.raises(ValueError, match="cannot be read.*level.*calibrate it again"):
        SideIntervals.from_meta(meta)
