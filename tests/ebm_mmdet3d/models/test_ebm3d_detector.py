"""EBM3DDetector: wrapping, freezing, refinement of seven dimensions, frames without points."""

from __future__ import annotations

import hashlib

import pytest
import torch

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmdet3d.registry import MODELS
from mmengine.config import ConfigDict
from torch.nn.modules.batchnorm import _BatchNorm

from ebm_mmdet.models.detectors import output_capture
from tests.ebm_mmdet3d.models.toys import (
    REAL_HEAD,
    batch,
    boxes,
    build,
    ebm_cfg,
    frame,
    head_cfg,
    real_detector_cfg,
)

REAL = ["pointpillars", "second", "sassd", "centerpoint"]


def digest(module) -> str:
    state = hashlib.sha256()
    for name, value in module.state_dict().items():
        state.update(name.encode() + value.contiguous().numpy().tobytes())
    return state.hexdigest()


def cfg_of(name: str, head: dict | None = None, **overrides) -> dict:
    if name == "toy":
        return ebm_cfg(head=head, **overrides)
    if name == "centerpoint":
        overrides.setdefault("feature_source", "pts_neck")
    head = {**REAL_HEAD[name], **(head or {})}
    return ebm_cfg(real_detector_cfg(name), head=head, **overrides)


def neck_of(model):
    return model.detector.get_submodule(model.feature_sources[0])


def frame_of(name: str, seed: int, **kwargs):
    """A frame in the format that the detector needs."""
    if name == "centerpoint":  # five features per point, velocities
        kwargs = dict(num_features=5, box_dim=9, **kwargs)
    points, sample = frame(seed=seed, **kwargs)
    if name != "toy":
        sample.gt_instances_3d.labels_3d.zero_()
    return points, sample


def two_frames(name: str = "toy", **kwargs):
    return [frame_of(name, seed, **kwargs) for seed in (0, 1)]


def predict(model, frames):
    with torch.no_grad():
        return [s.pred_instances_3d for s in model.predict(*batch(model, frames).values())]


def detect(model, frames):
    """The predictions of the wrapped detector alone."""
    data = batch(model, frames)
    with torch.no_grad():
        samples = model.detector.predict(*data.values())
    return [sample.pred_instances_3d for sample in samples]


def predict_both(model, frames):
    """What the wrapped detector found, and what became of it, in one and the same run.

    Two runs of a sparse convolution need not agree in their last bits.
    """
    found = []
    inner = model.detector.predict

    def spy(*args, **kwargs):
        samples = inner(*args, **kwargs)
        found.extend(sample.pred_instances_3d.clone() for sample in samples)
        return samples

    model.detector.predict = spy
    try:
        return list(zip(found, predict(model, frames), strict=True))
    finally:
        del model.detector.predict


def loss(model, frames):
    return model.loss(*batch(model, frames, training=True).values())


# ------------------------------------------------------------------------------------ prediction


@pytest.mark.parametrize("name", ["toy", *REAL])
def test_prediction_keeps_scores_labels_and_order_and_climbs(name):
    model, frames = build(cfg_of(name)), two_frames(name)
    data = batch(model, frames)
    with torch.no_grad():
        feats = model.energy_head.prepare(model.extract_maps(*data.values()))
    moved_any = False
    for i, (plain, refined) in enumerate(predict_both(model, frames)):
        before, after = plain.bboxes_3d.tensor, refined.bboxes_3d.tensor
        assert len(plain) > 0, "the detector must detect something"
        assert torch.equal(after[:, 7:], before[:, 7:])
        for field in ("scores_3d", "labels_3d"):
            assert torch.equal(refined[field], plain[field])
        assert type(refined.bboxes_3d) is type(plain.bboxes_3d)
        index = torch.full((len(plain),), i)
        f = model.energy_head.log_density(feats, before[:, None, :7], index, plain.labels_3d)
        assert (refined.log_density >= f[:, 0] - 1e-3).all()
        assert refined.accepted_steps.dtype == torch.int64
        moved = (after != before).any(1)
        assert torch.equal(moved, refined.accepted_steps > 0)
        moved_any |= bool(moved.any())
    assert moved_any


@pytest.mark.parametrize("name", ["toy", *REAL])
def test_without_a_refiner_boxes_stay_and_f_is_told(name):
    for plain, base in predict_both(build(cfg_of(name, refiner=None)), two_frames(name)):
        assert torch.equal(base.bboxes_3d.tensor, plain.bboxes_3d.tensor)
        assert not base.accepted_steps.any()
        assert torch.isfinite(base.log_density).all()


def test_zero_steps_keep_every_bit():
    refiner = dict(type="GradientAscentRefiner", step_size=1.0, num_steps=0)
    model = build(ebm_cfg(refiner=refiner))
    frames = two_frames()
    # A yaw and a size that would be changed if they were exported.
    found = frames[0][1].metainfo["toy_detections"]
    found.bboxes_3d.tensor[0, 6], found.bboxes_3d.tensor[1, 3] = 4.0, 0.01
    for a, b in zip(predict(model, frames), detect(model, frames)):
        assert torch.equal(a.bboxes_3d.tensor, b.bboxes_3d.tensor)


def test_log_density_is_that_of_the_returned_box():
    model, frames = build(ebm_cfg()), two_frames()
    found = predict(model, frames)
    data = batch(model, frames)
    with torch.no_grad():
        feats = model.energy_head.prepare(model.extract_maps(*data.values()))
    for i, inst in enumerate(found):
        index = torch.full((len(inst),), i)
        f = model.energy_head.log_density(
            feats, inst.bboxes_3d.tensor[:, None], index, inst.labels_3d
        )
        torch.testing.assert_close(f[:, 0], inst.log_density, rtol=1e-3, atol=1e-3)


def test_step_lengths_per_dimension():
    step = [1e-2, 0, 0, 0, 0, 0, 1e-3]
    model = build(ebm_cfg(refiner=dict(type="GradientAscentRefiner", step_size=step, num_steps=3)))
    frames = two_frames()
    moved = torch.zeros(7, dtype=torch.bool)
    for plain, refined in zip(detect(model, frames), predict(model, frames)):
        moved |= (plain.bboxes_3d.tensor != refined.bboxes_3d.tensor).any(0)
    assert moved.tolist() == [True, False, False, False, False, False, True]


def test_all_seven_dimensions_move_and_velocities_pass_through():
    model, frames = build(ebm_cfg()), two_frames(box_dim=9)
    for plain, refined in zip(detect(model, frames), predict(model, frames)):
        before, after = plain.bboxes_3d.tensor, refined.bboxes_3d.tensor
        assert after.shape[1] == refined.bboxes_3d.box_dim == 9
        assert torch.equal(after[:, 7:], before[:, 7:])
        assert (after != before)[:, :7].any(0).all()


class UphillByConstruction:
    """A refiner that moves every box by the same offset."""

    def __init__(self, offset):
        self.offset = torch.tensor(offset)

    def __call__(self, fn, y0, **_):
        from ebm_mmdet.energy import RefinementResult

        y = y0 + self.offset
        return RefinementResult(y, y[:, 0], torch.ones(len(y), dtype=torch.long), None)


def test_yaw_is_wrapped_and_sizes_are_floored_where_a_box_moved():
    model, frames = build(ebm_cfg()), two_frames()
    model.refiner = UphillByConstruction([0.0, 0, 0, -9.0, 0, -9.0, 7.0])
    for plain, refined in zip(detect(model, frames), predict(model, frames)):
        before, after = plain.bboxes_3d.tensor, refined.bboxes_3d.tensor
        assert (after[:, [3, 5]] == 0.05).all()
        assert torch.equal(after[:, 4], before[:, 4])
        assert ((after[:, 6] >= -torch.pi) & (after[:, 6] < torch.pi)).all()
        turns = (before[:, 6] + 7.0 - after[:, 6]) / (2 * torch.pi)
        torch.testing.assert_close(turns, turns.round(), atol=1e-5, rtol=0)


def test_a_head_that_gives_nan_leaves_every_box():
    model, frames = build(ebm_cfg()), two_frames()
    torch.nn.init.constant_(model.energy_head.fc_energy.bias, float("nan"))
    for plain, refined in zip(detect(model, frames), predict(model, frames)):
        assert torch.equal(plain.bboxes_3d.tensor, refined.bboxes_3d.tensor)
        assert not refined.accepted_steps.any()


def test_frames_do_not_influence_each_other():
    model, frames = build(ebm_cfg()), two_frames()
    together = predict(model, frames)
    for one, expected in zip(frames, together):
        (alone,) = predict(model, [one])
        torch.testing.assert_close(
            alone.bboxes_3d.tensor, expected.bboxes_3d.tensor, rtol=1e-4, atol=1e-4
        )


def test_refiner_that_samples_gives_a_covariance():
    refiner = dict(type="ImportanceMeanRefiner", prior=dict(std=[0.05] * 7), num_samples=16)
    model = build(ebm_cfg(refiner=refiner))
    for inst in predict(model, with_empty("toy", (1,))):
        assert inst.box_cov.shape == (len(inst), 7, 7)
        assert inst.box_std.shape == (len(inst), 7)
        assert inst.ess.shape == inst.log_prob.shape == (len(inst),)


# -------------------------------------------------------------------------------- features, modes


@pytest.mark.parametrize("name", ["toy", *REAL])
def test_features_are_computed_once(name):
    model, calls = build(cfg_of(name)), []
    neck_of(model).register_forward_hook(lambda *_: calls.append(1))
    predict(model, two_frames(name))
    assert len(calls) == 1
    loss(model.train(), two_frames(name))
    assert len(calls) == 2


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_prediction_leaves_no_gradient_and_no_features(context):
    model = build(ebm_cfg())
    with context():
        model(**batch(model, two_frames()), mode="predict")
    assert all(p.grad is None for p in model.parameters())
    assert output_capture._listeners.get() == ()


@pytest.mark.parametrize(
    ("name", "source", "head"),
    [
        ("second", "backbone", dict(feature_level=1, in_channels=16, cell_size=0.8)),
        ("sassd", "middle_encoder", dict(in_channels=32)),
    ],
)
def test_another_feature_source(name, source, head):
    model = build(cfg_of(name, head, feature_source=source))
    assert all(torch.isfinite(inst.log_density).all() for inst in predict(model, two_frames(name)))
    assert torch.isfinite(loss(model.train(), two_frames(name))["loss_energy"])


def test_unknown_feature_source_lists_the_choices():
    with pytest.raises(ValueError, match=r"no 'pts_neck'; set feature_source to some of.*'neck'"):
        build(ebm_cfg(feature_source="pts_neck"))


# --------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", ["toy", *REAL])
def test_frozen_detector_is_byte_identical_after_training(name):
    model = build(cfg_of(name)).train()
    before, head_before = digest(model.detector), digest(model.energy_head)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        total, _ = model.parse_losses(loss(model, two_frames(name)))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert digest(model.detector) == before
    assert digest(model.energy_head) != head_before
    assert not any(m.training for m in model.detector.modules() if m is not model.data_preprocessor)
    assert model.energy_head.training


def test_bn_train_mode_updates_statistics_only():
    model = build(ebm_cfg(bn_train_mode=True)).train()
    neck = model.detector.neck
    weight, mean = neck[0].weight.clone(), neck[1].running_mean.clone()
    losses = loss(model, two_frames())
    losses["loss_energy"].backward()
    assert torch.equal(neck[0].weight, weight)
    assert neck[0].weight.grad is None
    assert not torch.equal(neck[1].running_mean, mean)
    assert not neck[0].training
    mean = neck[1].running_mean.clone()
    predict(model.eval(), two_frames())
    assert torch.equal(neck[1].running_mean, mean)
    with pytest.raises(ValueError, match="bn_train_mode=True is for a frozen detector"):
        build(ebm_cfg(bn_train_mode=True, freeze_detector=False))


@pytest.mark.parametrize("name", ["toy", *REAL])
def test_joint_training_reaches_the_detector_through_the_energy_head(name):
    model = build(cfg_of(name, freeze_detector=False)).train()
    losses = loss(model, two_frames(name))
    assert len(losses) > 3, "the detector's own losses are there too"
    losses["loss_energy"].backward()
    first = next(p for n, p in model.detector.named_parameters() if p.dim() > 1)
    assert first.grad.abs().sum() > 0


def test_nothing_without_a_class_or_a_size_is_trained_on():
    model, frames = build(ebm_cfg()), two_frames(num_boxes=3)
    gt = frames[0][1].gt_instances_3d
    gt.labels_3d[0] = -1
    gt.bboxes_3d.tensor[1, 4] = float("nan")
    given = []
    model.energy_head.loss = lambda feats, *args, **_: given.append(args) or {}
    loss(model, frames)
    found, index, labels = given[0]
    assert index.tolist() == [0, 1, 1, 1]
    assert torch.equal(found[0], gt.bboxes_3d.tensor[2])
    assert labels.tolist() == [2, 0, 1, 2]


def test_frames_without_ground_truth():
    model = build(ebm_cfg()).train()
    losses = loss(model, [frame(num_boxes=0)])
    losses["loss_energy"].backward()
    assert losses["loss_energy"] == 0
    assert all(p.grad is not None for p in model.energy_head.parameters())


# --------------------------------------------------------------------------- frames without points


def calibrate(model, name):
    """Features of unit scale, by the statistics of some frames.

    The untrained normalisations of a deep detector pass features of 1e-11: all scores are equal
    then, and which boxes are kept, and which way they look, hangs on the last bits.
    """
    norms = [m for m in model.detector.modules() if isinstance(m, _BatchNorm)]
    for module in norms:
        module.train()
        module.momentum = None  # the mean of what was seen
    with torch.no_grad():
        model.extract_maps(*batch(model, [frame_of(name, seed) for seed in range(3)]).values())
    return model.eval()


def with_empty(name, empty):
    frames = [frame_of(name, seed) for seed in range(3)]
    return [(p[:0] if i in empty else p, sample) for i, (p, sample) in enumerate(frames)]


@pytest.mark.parametrize("empty", [(2,), (0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("name", ["toy", *REAL])
def test_frames_without_points(name, empty):
    # Steps so short that the climb does not multiply the rounding of the features.
    refiner = dict(type="GradientAscentRefiner", step_size=[1e-6] * 7, num_steps=2)
    model = calibrate(build(cfg_of(name, refiner=refiner)), name)
    found = predict(model, with_empty(name, empty))
    assert len(found) == 3
    for i, inst in enumerate(found):
        fields = ("bboxes_3d", "scores_3d", "labels_3d", "log_density", "accepted_steps")
        assert all(len(inst[field]) == len(inst) for field in fields)
        if i in empty:
            assert len(inst) == 0
        else:
            (alone,) = predict(model, [with_empty(name, empty)[i]])
            gaps = inst.scores_3d.sort().values.diff()
            assert (gaps > 1e-6).all(), "equal scores: the order of the boxes would be chance"
            torch.testing.assert_close(
                inst.bboxes_3d.tensor, alone.bboxes_3d.tensor, rtol=1e-3, atol=1e-3
            )
    losses = loss(model.train(), with_empty(name, empty))
    losses["loss_energy"].backward()
    assert (losses["loss_energy"] == 0) == (len(empty) == 3)
    assert all(torch.isfinite(p.grad).all() for p in model.energy_head.parameters())


def test_no_detections():
    cfg = cfg_of("pointpillars")
    cfg["detector"].test_cfg.score_thr = 1.5
    for inst in predict(build(cfg), two_frames("pointpillars")):
        assert len(inst) == 0
        assert inst.bboxes_3d.tensor.shape == (0, 7)
        assert inst.log_density.shape == inst.accepted_steps.shape == (0,)


# ----------------------------------------------------------------------------- loading and naming


def test_loads_a_plain_detector_checkpoint():
    model, source = build(ebm_cfg()), build(ebm_cfg(), seed=1)
    head = digest(model.energy_head)
    assert digest(model.detector) != digest(source.detector)
    model.load_state_dict(source.detector.state_dict())
    assert digest(model.detector) == digest(source.detector)
    assert digest(model.energy_head) == head
    model.load_state_dict(source.state_dict())
    assert digest(model) == digest(source)


@pytest.mark.parametrize("spelling", ["{}", "ebm_mmdet3d.{}", "ebm_mmdet3d.models.{}"])
@pytest.mark.parametrize("scope", [None, "mmdet3d", "ebm_mmdet"])
def test_ways_to_name_a_type(spelling, scope):
    cfg = ebm_cfg()
    for part in (cfg, cfg["energy_head"]):
        part["type"] = spelling.format(part["type"])
        if scope:
            part["_scope_"] = scope
    cfg["detector"]["_scope_"] = "mmdet3d"
    model = MODELS.build(ConfigDict(cfg))
    assert type(model).__name__ == "EBM3DDetector"
    assert type(model.refiner).__name__ == "GradientAscentRefiner"


def test_objectives_of_2d_work_in_3d():
    for objective in (
        dict(type="MLISObjective", num_noise=8, noise=head_cfg()["objective"]["noise"]),
        dict(type="DSMObjective", sigma=[0.1] * 7),
    ):
        model = build(ebm_cfg(head=dict(objective=objective, act_cfg=dict(type="SiLU")))).train()
        value = loss(model, two_frames())["loss_energy"]
        value.backward()
        assert torch.isfinite(value)
        assert all(torch.isfinite(p.grad).all() for p in model.energy_head.parameters())


def test_boxes_of_the_toys_lie_inside_their_map():
    assert ((boxes(50)[:, :2] > torch.tensor([0.0, -8.0])).all(1)).all()
