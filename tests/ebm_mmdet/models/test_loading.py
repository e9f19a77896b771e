"""Plain detector checkpoints and ours, through torch's loader and through mmengine's."""

from __future__ import annotations

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint

from tests.ebm_mmdet.models.toys import build, ebm_cfg


@pytest.fixture
def messages(caplog):
    """Lines that mmengine's logger emits (it does not propagate to the root logger)."""
    logger = MMLogger.get_current_instance()
    logger.setLevel(logging.INFO)
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.removeHandler(caplog.handler)


def other_detector_state() -> dict:
    return {k: v.clone() for k, v in build(ebm_cfg(), seed=1).detector.state_dict().items()}


def load(model, state, tmp_path, how):
    if how == "torch":
        model.load_state_dict(state)
    else:
        torch.save({"state_dict": state, "meta": {}}, tmp_path / "x.pth")
        load_checkpoint(model, str(tmp_path / "x.pth"), map_location="cpu")


@pytest.mark.parametrize("how", ["torch", "mmengine"])
def test_plain_checkpoint_loads_and_its_box_head_starts_the_trunk(how, tmp_path, messages):
    model, state = build(ebm_cfg()), other_detector_state()
    output = model.energy_head.fc_energy.weight.clone()
    load(model, state, tmp_path, how)
    for key, value in model.detector.state_dict().items():
        assert torch.equal(value, state[key]), key
    first = state["roi_head.bbox_head.shared_fcs.0.weight"]
    assert torch.equal(model.energy_head.trunk[0].weight, first)
    assert torch.equal(model.energy_head.fc_energy.weight, output)
    (line,) = [m for m in messages() if m.startswith("Loaded a plain detector checkpoint")]
    total = len(state)
    assert f"{total} of {total} tensors" in line
    assert "trunk copied" in line
    assert not any("do not match exactly" in m for m in messages())


@pytest.mark.parametrize("how", ["torch", "mmengine"])
def test_our_checkpoint_loads_unchanged(how, tmp_path, messages):
    source, model = build(ebm_cfg(), seed=2), build(ebm_cfg())
    source.energy_head.trunk[0].weight.data.fill_(0.25)
    load(model, source.state_dict(), tmp_path, how)
    for key, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key
    assert not any("Loaded a" in m for m in messages())


def test_what_did_not_match_is_said_by_module(tmp_path, messages):
    model, state = build(ebm_cfg()), other_detector_state()
    kept = model.detector.rpn_head.rpn_conv.weight.clone()
    del state["rpn_head.rpn_conv.weight"], state["rpn_head.rpn_conv.bias"]
    state["mask_head.conv.weight"] = torch.zeros(1)
    load(model, state, tmp_path, "mmengine")
    (line,) = [m for m in messages() if m.startswith("Loaded a plain")]
    total = len(model.detector.state_dict())
    assert f"{total - 2} of {total}" in line
    assert "detector.rpn_head.rpn_conv (2)" in line
    assert "detector.mask_head.conv (1)" in line
    assert torch.equal(model.detector.rpn_head.rpn_conv.weight, kept)


def test_strict_loading_still_refuses_an_incomplete_detector():
    model, state = build(ebm_cfg()), other_detector_state()
    del state["rpn_head.rpn_conv.weight"]
    with pytest.raises(RuntimeError, match="rpn_conv"):
        model.load_state_dict(state, strict=True)


def test_a_detector_without_a_box_head_starts_fresh(tmp_path, messages):
    state = build(ebm_cfg("retinanet"), seed=1).detector.state_dict()
    load(build(ebm_cfg("retinanet")), state, tmp_path, "mmengine")
    (line,) = [m for m in messages() if m.startswith("Loaded a plain")]
    assert "trunk starts fresh" in line


def test_a_tensor_of_another_shape_is_not_found(tmp_path, messages):
    """It is not loaded, so it does not count, with either loader."""
    model, state = build(ebm_cfg()), other_detector_state()
    names = [f"roi_head.bbox_head.{part}.{kind}" for part in ("fc_cls", "fc_reg") for kind in WB]
    for name in names:
        state[name] = torch.zeros(7, *state[name].shape[1:])
    load(model, state, tmp_path, "mmengine")
    (line,) = [m for m in messages() if m.startswith("Loaded a plain")]
    total = len(model.detector.state_dict())
    assert f"{total - 4} of {total} tensors" in line
    assert "in another shape (not loaded): detector.roi_head.bbox_head (4)" in line


WB = ("weight", "bias")


def test_a_trained_trunk_is_not_overwritten(tmp_path, messages):
    """A plain checkpoint after one of ours changes the detector, and keeps the trained head."""
    model, trained = build(ebm_cfg()), build(ebm_cfg(), seed=2)
    trained.energy_head.trunk[0].weight.data.fill_(0.25)
    load(model, trained.state_dict(), tmp_path, "mmengine")
    state = other_detector_state()
    load(model, state, tmp_path, "mmengine")
    assert (model.energy_head.trunk[0].weight == 0.25).all()
    assert torch.equal(
        model.detector.neck.fpn_convs[0].conv.weight, state["neck.fpn_convs.0.conv.weight"]
    )
    (line,) = [m for m in messages() if m.startswith("Loaded a plain")]
    assert "trunk keeps its values" in line


@pytest.mark.parametrize("where", ["model", "head"])
def test_what_init_cfg_has_loaded_is_not_overwritten(where, tmp_path):
    trained = build(ebm_cfg(), seed=2)
    trained.energy_head.trunk[0].weight.data.fill_(0.25)
    part = trained if where == "model" else trained.energy_head
    torch.save({"state_dict": part.state_dict(), "meta": {}}, tmp_path / "trained.pth")
    pretrained = dict(type="Pretrained", checkpoint=str(tmp_path / "trained.pth"))
    cfg = (
        ebm_cfg(init_cfg=pretrained)
        if where == "model"
        else ebm_cfg(head=dict(init_cfg=pretrained))
    )
    model = build(cfg)
    assert (model.energy_head.trunk[0].weight == 0.25).all()
    # A plain checkpoint (load_from comes after the initialisation) does not do so either.
    load(model, other_detector_state(), tmp_path, "mmengine")
    assert (model.energy_head.trunk[0].weight == 0.25).all()


def test_the_box_head_starts_the_trunk_where_nothing_else_does():
    model = build(ebm_cfg())
    shared = model.detector.roi_head.bbox_head.shared_fcs
    for layer, source in zip(model.energy_head.trunk, shared):
        assert torch.equal(layer.weight, source.weight)
    fresh = build(ebm_cfg(init_trunk_from=None))
    assert not torch.equal(fresh.energy_head.trunk[0].weight, shared[0].weight)
