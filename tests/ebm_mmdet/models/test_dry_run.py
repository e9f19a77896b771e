"""What one run on a blank image finds about a detector's maps."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.logging import MMLogger

from ebm_mmdet.models.detectors import dry_run as dry
from tests.ebm_mmdet.models.any_detector import make, predict, small, without_levels, wrapped
from tests.ebm_mmdet.models.toys import batch, build, detector_cfg, ebm_cfg


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
