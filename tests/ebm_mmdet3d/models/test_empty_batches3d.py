"""Batches without any point: joint training continues, and results have the usual form."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from ebm_mmdet.energy import evaluate_only
from ebm_mmdet.models import attach_intervals
from ebm_mmdet3d.models.detectors import DimIntervals
from tests.ebm_mmdet3d.models.sassd_toys import CARS, RANGE, car_frame, sassd_cfg
from tests.ebm_mmdet3d.models.toys import (
    REAL_HEAD,
    batch,
    build,
    ebm_cfg,
    frame,
    noise_cfg,
    real_detector_cfg,
)

NAMES = ["toy", "pointpillars", "second", "sassd", "centerpoint", "sassd_paper"]


def cfg_of(name: str, **overrides) -> dict:
    if name == "toy":
        return ebm_cfg(**overrides)
    if name == "sassd_paper":
        head = dict(
            num_classes=1,
            in_channels=24,
            origin=RANGE[:2],
            objective=dict(type="NCEObjective", num_noise=8, noise=noise_cfg()),
        )
        detector = sassd_cfg()
        detector.test_cfg.update(guide_thr=0.0, score_thr=0.0, max_num=6)
        return ebm_cfg(detector, head, feature_source="backbone.conv6", **overrides)
    if name == "centerpoint":
        overrides = dict(feature_source="pts_neck", **overrides)
    return ebm_cfg(real_detector_cfg(name), REAL_HEAD[name], **overrides)


def frames_of(name: str, empty: tuple[bool, ...]) -> list:
    frames = []
    for seed, nothing in enumerate(empty):
        if name == "sassd_paper":
            points, sample = car_frame(CARS, seed)
        else:
            kwargs = dict(num_features=5, box_dim=9) if name == "centerpoint" else {}
            points, sample = frame(seed=seed, **kwargs)
            if name != "toy":
                sample.gt_instances_3d.labels_3d.zero_()
        frames.append((points[:0] if nothing else points, sample))
    return frames


def predict(model, frames) -> list:
    with torch.no_grad():
        return [s.pred_instances_3d for s in model.predict(*batch(model, frames).values())]


@pytest.mark.parametrize("name", NAMES)
def test_joint_training_reaches_every_parameter(name):
    """As in a process of a distributed training that gets only frames without points."""
    model = build(cfg_of(name, freeze_detector=False)).train()
    losses = model.loss(*batch(model, frames_of(name, (True, True)), training=True).values())
    total, _ = model.parse_losses(losses)
    assert total == 0
    total.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert any(n.startswith("detector.") for n in trained)
    assert not [n for n, p in trained.items() if p.grad is None]
    assert not any(p.grad.any() for p in trained.values())


def test_a_frozen_detector_gets_no_gradient():
    model = build(cfg_of("toy")).train()
    losses = model.loss(*batch(model, frames_of("toy", (True,)), training=True).values())
    losses["loss_energy"].backward()
    assert all(p.grad is None for p in model.detector.parameters())


@pytest.mark.parametrize("refiner", ["none", "ascent", "samples"])
@pytest.mark.parametrize("name", NAMES)
def test_results_are_of_the_type_of_others(name, refiner):
    """The same fields, dtypes, box type and columns as where there are points (CenterPoint: 9)."""
    refiners = {
        "none": None,
        "ascent": dict(type="GradientAscentRefiner", step_size=[1e-6] * 7, num_steps=1),
        "samples": dict(type="ImportanceMeanRefiner", prior=dict(std=[0.01] * 7), num_samples=16),
    }
    model = build(cfg_of(name, refiner=refiners[refiner]))
    (usual,) = predict(model, frames_of(name, (False,)))
    assert len(usual) > 0
    data = batch(model, frames_of(name, (True, True)))
    before = [sample.metainfo for sample in data["data_samples"]]
    with torch.no_grad():
        samples = model.predict(*data.values())
    assert [sample.metainfo for sample in samples] == before
    for sample in samples:
        found = sample.pred_instances_3d
        assert len(found) == 0
        assert set(found.keys()) == set(usual.keys())
        assert type(found.bboxes_3d) is type(usual.bboxes_3d)
        assert found.bboxes_3d.box_dim == usual.bboxes_3d.box_dim
        assert found.bboxes_3d.with_yaw == usual.bboxes_3d.with_yaw
        for key, other in usual.items():
            one = found[key]
            if key == "bboxes_3d":
                one, other = one.tensor, other.tensor
            assert one.dtype == other.dtype, key
            assert one.shape == (0, *other.shape[1:]), key
    # Frames do not share storage that someone may write to.
    first, second = (sample.pred_instances_3d for sample in samples)
    first.scores_3d = first.scores_3d + 1
    first.extra = first.scores_3d
    assert "extra" not in second


def test_results_have_the_fields_of_the_refiner_of_the_call():
    """Not those of the model's own: batches of frames with points and without may be joined."""
    samples = dict(type="ImportanceMeanRefiner", prior=dict(std=[0.01] * 7), num_samples=16)
    model = build(cfg_of("toy", refiner=samples))
    attach_intervals(model, DimIntervals(0.9, False, "metres", torch.ones(4, 7)), DimIntervals)
    keys = []
    for empty in ((False,), (True, False), (True,), (True, True)):
        data = batch(model, frames_of("toy", empty))
        with torch.no_grad():
            found = model.predict(*data.values(), refiner=evaluate_only)
        keys += [set(each.pred_instances_3d.keys()) for each in found]
    assert keys == keys[:1] * 6
    assert "box_cov" not in keys[0]
    assert "dim_interval" not in keys[0]


def test_labels_that_index_are_int64():
    """CenterPoint's are int32; before torch 2.8 `gather` takes int64 only."""
    model = build(cfg_of("centerpoint"))
    seen = []
    inner = model.energy_head.evaluate

    def spy(feats, boxes, batch_index, labels):
        seen.append(labels.dtype)
        return inner(feats, boxes, batch_index, labels)

    model.energy_head.evaluate = spy
    (found,) = predict(model, frames_of("centerpoint", (False,)))
    assert found.labels_3d.dtype == torch.int32, "what the detector gave stays what it is"
    frames = frames_of("centerpoint", (False,))
    gt = frames[0][1].gt_instances_3d
    gt.labels_3d = gt.labels_3d.int()
    model.train()
    model.loss(*batch(model, frames, training=True).values())["loss_energy"].backward()
    assert len(seen) > 1
    assert set(seen) == {torch.int64}
