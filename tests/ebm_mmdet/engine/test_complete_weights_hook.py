"""A run does not go on with weights that nothing has set."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn

from ebm_mmdet.engine import CheckpointError, CompleteWeightsHook
from tests.ebm_mmdet.models.kl_toys import kl_cfg
from tests.ebm_mmdet.models.toys import build, detector_cfg, ebm_cfg


def begin(
    event: str,
    model: nn.Module,
    state: dict | None,
    refuse: bool = True,
    dataset: object = None,
    meta: dict | None = None,
) -> None:
    """Call the hook as a runner does that loads ``state`` (None: nothing) and then begins."""
    hook, hooks = CompleteWeightsHook(refuse), model._load_state_dict_post_hooks.copy()
    loader = SimpleNamespace(dataset=dataset)
    runner = SimpleNamespace(
        model=model, _load_from="mine.pth", train_dataloader=loader, test_dataloader=loader
    )
    if state is not None:
        checkpoint = dict(state_dict=copy.deepcopy(state), meta=meta)
        hook.after_load_checkpoint(runner, checkpoint)
        _load_checkpoint_to_model(model, checkpoint)
    getattr(hook, event)(runner)
    assert model._load_state_dict_post_hooks == hooks


def more_classes(kind: str):
    cfg = detector_cfg(kind)
    cfg.roi_head.bbox_head.num_classes += 1
    return cfg


OTHERS = {
    "another detector": (detector_cfg("faster_rcnn"), detector_cfg("retinanet"), "are missing: "),
    "other classes": (
        detector_cfg("faster_rcnn"),
        more_classes("faster_rcnn"),
        r"4 of its tensors have another shape: roi_head\.bbox_head\.fc_cls\.weight",
    ),
    "of mmdet's own box head": (
        kl_cfg(),
        detector_cfg("faster_rcnn"),
        r"2 of its tensors are missing: roi_head\.bbox_head\.fc_alpha\.weight",
    ),
    "another detector inside": (ebm_cfg(), detector_cfg("retinanet"), "are missing: detector"),
    "another head": (
        ebm_cfg(),
        ebm_cfg(head=dict(fc_channels=[8])),
        r"another shape: energy_head\.trunk.*|are missing: energy_head\.trunk.*",
    ),
}


@pytest.mark.parametrize(("ours", "theirs", "message"), OTHERS.values(), ids=OTHERS)
def test_another_models_checkpoint_is_not_tested(ours, theirs, message):
    state = build(theirs).state_dict()
    with pytest.raises(CheckpointError, match=rf"mine\.pth does not fit .*{message}"):
        begin("before_test", build(ours), state)
    begin("before_test", build(ours), state, refuse=False)


@pytest.mark.parametrize("wrap", [False, True])
def test_what_the_model_does_without_is_not_asked_for(wrap):
    model = build(detector_cfg("faster_rcnn"))
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    state = {name: value for name, value in state.items() if "num_batches" not in name}
    state["module.mask_head.weight"] = torch.zeros(1)
    if wrap:
        tta_cfg = dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=5)
        model = MODELS.build(dict(type="EBMTTAModel", module=model, tta_cfg=tta_cfg))
    begin("before_test", model, state)


def test_an_untrained_head_is_not_tested_where_it_decides():
    plain = build(detector_cfg("faster_rcnn")).state_dict()
    candidates = dict(type="EnergyGuidedNMS")
    still = dict(type="GradientAscentRefiner", step_size=1e-2, num_steps=0)
    for changes in (dict(), dict(refiner=None, candidates=candidates)):
        with pytest.raises(CheckpointError, match=r"no energy head .*model\.refiner=None"):
            begin("before_test", build(ebm_cfg(**changes)), plain)
    for changes in (dict(refiner=None), dict(refiner=still)):
        begin("before_test", build(ebm_cfg(**changes)), plain)
    begin("before_test", build(ebm_cfg()), build(ebm_cfg()).state_dict())


def test_no_head_is_trained_on_a_frozen_detector_without_its_weights():
    plain = build(detector_cfg("faster_rcnn")).state_dict()
    with pytest.raises(CheckpointError, match=r"nothing loads its weights.*Set load_from"):
        begin("before_train", build(ebm_cfg()), None)
    with pytest.raises(CheckpointError, match=r"does not fit the frozen detector.* missing"):
        begin("before_train", build(ebm_cfg()), build(detector_cfg("retinanet")).state_dict())
    begin("before_train", build(ebm_cfg()), plain)
    begin("before_train", build(ebm_cfg()), build(ebm_cfg()).state_dict())
    # What is trained may start from anything.
    begin("before_train", build(ebm_cfg(freeze_detector=False)), None)
    begin("before_train", build(detector_cfg("faster_rcnn")), None)
    begin("before_train", build(kl_cfg()), plain)
    other_head = build(ebm_cfg(head=dict(fc_channels=[8]))).state_dict()
    begin("before_train", build(ebm_cfg()), other_head)
    named = build(ebm_cfg())
    named.detector.init_cfg = dict(type="Pretrained", checkpoint="detector.pth")
    begin("before_train", named, None)


def data_set(*classes: str) -> SimpleNamespace:
    return SimpleNamespace(metainfo=dict(classes=classes))


@pytest.mark.parametrize("event", ["before_test", "before_train"])
@pytest.mark.parametrize("wrap", [None, "dataset", "datasets"])
def test_a_label_that_means_another_class_is_refused(event, wrap, monkeypatch):
    model = build(ebm_cfg())
    state = model.state_dict()

    def call(data, meta):
        if wrap:
            data = SimpleNamespace(**{wrap: [data] if wrap == "datasets" else data})
        begin(event, model, state, dataset=data, meta=meta)

    known = dict(dataset_meta=dict(classes=("car", "van", "bus")))
    for same in (("car", "van", "bus"), ("car",), ("auto", "van", "coach"), ("car", "van", "x")):
        call(data_set(*same), known)
    call(data_set("car", "van"), None)
    call(SimpleNamespace(), known)
    for other, meta in (
        (("van", "car", "bus"), known),
        (("bus",), known),
        (("x", "van", "car"), dict(CLASSES=["car", "van"])),
    ):
        with pytest.raises(CheckpointError, match=r"'\w+' is label \d to mine\.pth.*metainfo"):
            call(data_set(*other), meta)
    # mmdet numbers labels as the annotation file does, in training as in a test.
    monkeypatch.setattr("ebm_mmdet.engine.complete_weights_hook.CocoDataset", SimpleNamespace)
    call(data_set("van", "car", "bus"), known)
