"""Maps of an enlarged image: what the head then reads, and that nothing else changes."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from mmdet.testing import demo_mm_inputs

from ebm_mmdet.apis.feature_cache import cache_test_images, cache_training_views
from ebm_mmdet.apis.fitting.detections import Method, detect, refine, unrefined
from ebm_mmdet.energy import evaluate_only
from ebm_mmdet.models.feature_maps import FeatureMap
from ebm_mmdet.models.pixels import enlarged
from tests.ebm_mmdet.models.toys import batch, build, ebm_cfg
from tests.tolerances import TOLERANCE

HALVED = dict(strides=[2, 4, 8, 16], finest_scale=28)
BOXES = torch.tensor([[[10.0, 12.0, 70.0, 50.0]], [[20.0, 8.0, 148.0, 124.0]]])
LABELS = IMAGES = torch.tensor([0, 1])


@pytest.fixture
def pair() -> tuple[torch.nn.Module, torch.nn.Module]:
    """The same weights, on maps of images enlarged twice and of images as they are."""
    twice = build(ebm_cfg(head=HALVED, enlarge=2))
    once = build(ebm_cfg())
    once.load_state_dict(twice.state_dict())
    return twice, once


def log_density(model, inputs, boxes):
    feats = model.energy_head.prepare(model.extract_maps(inputs), input_shape=inputs.shape[-2:])
    with torch.no_grad():
        return model.energy_head.evaluate(feats, boxes, IMAGES, LABELS)


def test_what_lies_at_x_lies_at_factor_x():
    ramp = torch.arange(8.0).expand(1, 1, 4, 8) + 0.5  # the value is the position, in pixels
    positions = (torch.arange(24.0) + 0.5) / 3
    inside = slice(2, -2)  # beyond the outermost centres the border is repeated
    torch.testing.assert_close(enlarged(ramp, 3)[0, 0, 0, inside], positions[inside])
    assert enlarged(ramp, 1) is ramp


def test_f_of_a_box_is_f_of_the_enlarged_box_in_the_enlarged_image(pair):
    """f_2(x, y) = f_1(2 x, 2 y)."""
    twice, once = pair
    inputs = batch(once)["inputs"]
    larger = F.interpolate(inputs, scale_factor=2, mode="bilinear", align_corners=False)
    here, there = log_density(twice, inputs, BOXES), log_density(once, larger, 2 * BOXES)
    torch.testing.assert_close(here, there, **TOLERANCE[torch.float32])
    assert (here - log_density(once, inputs, BOXES)).abs().max() > 1e-3


def test_detections_are_those_of_the_image_as_it_is(pair):
    data = batch(pair[1])
    found = [
        model.predict(data["inputs"], copy.deepcopy(data["data_samples"]), refiner=evaluate_only)
        for model in pair
    ]
    for a, b in zip(*found):
        for name in ("bboxes", "scores", "labels"):
            assert torch.equal(a.pred_instances[name], b.pred_instances[name])
        assert not torch.equal(a.pred_instances.log_density, b.pred_instances.log_density)


def test_maps_are_captured_once_where_nothing_is_enlarged(pair):
    data, runs = batch(pair[1]), []
    for model in pair:
        count = []
        hook = model.detector.backbone.register_forward_hook(lambda *_, n=count: n.append(1))
        model.predict(data["inputs"], copy.deepcopy(data["data_samples"]))
        hook.remove()
        runs.append(len(count))
    assert runs == [2, 1]


@pytest.mark.parametrize("flips", [(), ("horizontal", "diagonal")])
def test_boxes_climb_and_stay_in_the_image(flips):
    model = build(ebm_cfg(head=HALVED, enlarge=2, flips=flips))
    data = batch(model)
    for sample in model.predict(data["inputs"], data["data_samples"]):
        found = sample.pred_instances
        assert (found.accepted_steps > 0).any()
        assert found.bboxes.isfinite().all()
        assert (found.bboxes >= 0).all()
        assert (found.bboxes[:, 2] <= 160).all()


@pytest.mark.parametrize("frozen", [True, False])
def test_training_reaches_the_head_and_a_detector_that_is_not_frozen(frozen):
    model = build(ebm_cfg(head=HALVED, enlarge=2, freeze_detector=frozen)).train()
    before = copy.deepcopy(model.detector.state_dict())
    data = batch(model, training=True)
    losses = model.loss(data["inputs"], data["data_samples"])
    energy = sum(value for name, value in losses.items() if "energy" in name)
    energy.backward()
    assert model.energy_head.fc_energy.weight.grad.abs().sum() > 0
    gradient = model.detector.backbone.conv1.weight.grad
    assert gradient is None if frozen else gradient.abs().sum() > 0
    if frozen:
        after = model.detector.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_values_that_are_left_out_are_in_pixels_of_the_image_as_it_is():
    cfg = ebm_cfg(head=dict(in_channels=None), enlarge=2)
    head = build(cfg).energy_head
    assert head.strides == (2, 4, 8, 16, 32)  # the last of stride 64 in the enlarged image
    assert head.finest_scale == 28


def test_strides_of_the_enlarged_image_are_refused():
    given = dict(strides=[4, 8, 16, 32], feature_levels=[0, 1, 2, 3])
    model = build(ebm_cfg(head=given, enlarge=2))
    data = batch(model)
    with pytest.raises(ValueError, match="stride"):
        model.predict(data["inputs"], data["data_samples"])


@pytest.mark.parametrize(("stride", "factor", "expected"), [(8, 2, 4), (2, 4, 0.5), (0, 2, 0)])
def test_map_of_an_enlarged_image(stride, factor, expected):
    found = FeatureMap(3, 10, 20, stride).enlarged(factor)
    assert found == FeatureMap(3, 10 * factor, 20 * factor, expected)


@pytest.mark.parametrize("factor", [0, -1, 1.5, 2.0, True, "2", None])
def test_a_factor_that_is_no_whole_number_is_refused(factor):
    with pytest.raises(ValueError, match="enlarge="):
        build(ebm_cfg(enlarge=factor))


def test_models_from_before_are_not_enlarged(pair):
    _, once = pair
    file = io.BytesIO()
    del once.__dict__["enlarge"]  # as pickled by an earlier version
    torch.save(once, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    data = batch(again)
    assert again.enlarge == 1
    assert again.predict(data["inputs"], data["data_samples"])


def test_caches_hold_maps_of_the_enlarged_image_and_their_time(pair):
    dataset = [_item(), _item()]
    for model, factor in zip(pair, (2, 1)):
        views = cache_training_views(model, dataset, rounds=1, seed=0)
        (image, _) = cache_test_images(model, dataset)
        assert views[0].neck[0].shape[-2:] == (factor * 32, factor * 40)
        assert image.neck[0].shape[-2:] == (factor * 32, factor * 40)
        seen = detect(model, _item())
        assert seen.maps[0].shape[-2:] == (factor * 32, factor * 40)
    twice = pair[0]
    seen = detect(twice, _item())._replace(maps_seconds=1e4)
    reads = Method("energy", twice.refiner, twice.energy_head)
    assert refine(twice, reads, seen)[1] > 1e4 > refine(twice, unrefined(reads.head), seen)[1]


def _item() -> dict:
    raw = demo_mm_inputs(1, [(3, 128, 160)], num_items=[3], num_classes=3)
    return dict(inputs=raw["inputs"][0], data_samples=raw["data_samples"][0])
