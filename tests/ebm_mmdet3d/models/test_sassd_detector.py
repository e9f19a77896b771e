"""SASSDPaper: learns a frame, predicts it, and gives its conv6 to an energy head."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.ebm_mmdet3d.models.sassd_toys import CARS, RANGE, car_frame, sassd_cfg
from tests.ebm_mmdet3d.models.toys import batch, build, ebm_cfg, noise_cfg

STEPS = 36


def losses_of(model, frames) -> dict[str, torch.Tensor]:
    data = batch(model, frames, training=True)
    losses = model.loss(data["inputs"], data["data_samples"])
    return {k: sum(v) if isinstance(v, list) else v for k, v in losses.items()}


def predict(model, frames):
    data = batch(model, frames)
    with torch.no_grad():
        samples = model.predict(data["inputs"], data["data_samples"])
    return [sample.pred_instances_3d for sample in samples]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Forty steps from random weights give other results if sums are rounded in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def learned(one_thread):
    """A model after some steps on one frame, and its losses during them."""
    model = build(sassd_cfg()).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.3  # 0.01 would need hundreds of steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    history = []
    for _ in range(STEPS):
        losses = losses_of(model, [car_frame(CARS)])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    return model.eval(), history


def test_losses_fall(learned):
    _, history = learned
    names = ["loss_cls", "loss_bbox", "loss_dir", "loss_rescore", "loss_aux_cls", "loss_aux_reg"]
    assert sorted(history[0]) == sorted(names)
    for name in ("loss_cls", "loss_dir", "loss_aux_cls", "loss_aux_reg"):
        assert history[-1][name] < 0.6 * history[0][name], name
    assert sum(history[-1].values()) < 0.5 * sum(history[0].values())


def test_predicts_what_it_learned(learned):
    model, _ = learned
    found, nothing = predict(model, [car_frame(CARS), (torch.zeros(0, 4), car_frame(CARS[:0])[1])])
    assert len(nothing) == 0
    assert nothing.bboxes_3d.tensor.shape == (0, 7)
    assert 2 <= len(found) < 20
    assert (found.scores_3d > model.test_cfg.score_thr).all()
    assert (found.scores_3d.diff() <= 0).all()
    assert not found.labels_3d.any()
    # Proposals are on both cars; which of them come first is learned later.
    data = batch(model, [car_frame(CARS)])
    with torch.no_grad():
        *_, outs, occupied = model._run(data["inputs"])
        guided, _ = model.bbox_head.guided_boxes(outs, occupied, 0.1)
    assert torch.cdist(CARS[:, :3], guided[:, :3]).min(dim=1).values.max() < 2.0
    ours = found.bboxes_3d.tensor
    # Not by cdist, which multiplies matrices and is good to some millimetres only.
    difference = (ours[:, None] - guided).abs().amax(dim=2)
    assert (difference.min(dim=1).values < 1e-4).all()


def test_all_parts_are_trained(learned):
    model = copy.deepcopy(learned[0]).train()
    sum(losses_of(model, [car_frame(CARS), car_frame(CARS[:1], seed=1)]).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_samples_keep_their_boxes(learned):
    model, _ = learned
    data = batch(model, [car_frame(CARS)], training=True)
    model.loss(data["inputs"], data["data_samples"])
    gt = data["data_samples"][0].gt_instances_3d
    assert torch.equal(gt.bboxes_3d.tensor, CARS)


def test_the_second_score_reads_conv6_at_the_box(learned):
    """Scores of a prediction, once more from the map, are the scores."""
    model, _ = learned
    (found,) = predict(model, [car_frame(CARS)])
    data = batch(model, [car_frame(CARS)])
    heard = []
    hook = model.backbone.get_submodule("conv6").register_forward_hook(
        lambda _, __, out: heard.append(out)
    )
    with torch.no_grad():
        _, parts = model.extract_feat(data["inputs"])
        boxes = found.bboxes_3d.tensor
        frame = torch.zeros(len(boxes), dtype=torch.long)
        logits = model.rescore_head(parts, boxes, frame, RANGE[:2], 0.4)
    hook.remove()
    assert parts is heard[0]
    assert parts.shape == (1, 24, 32, 32)
    torch.testing.assert_close(logits.sigmoid(), found.scores_3d)


def test_frames_without_cars_and_other_classes():
    model = build(sassd_cfg()).train()
    empty, other = car_frame(CARS[:0]), car_frame(CARS, seed=2)
    other[1].gt_instances_3d.labels_3d[:] = -1
    losses = losses_of(model, [empty, other])
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["loss_bbox"] == losses["loss_aux_reg"] == 0
    assert losses["loss_cls"] > 0
    sum(losses.values()).backward()


def test_an_object_of_a_second_class_is_refused():
    """It would count as a car in the second scores, and as ground in the proposals."""
    model = build(sassd_cfg()).train()
    frame = car_frame(CARS)
    frame[1].gt_instances_3d.labels_3d[1] = 2
    with pytest.raises(ValueError, match=r"label 2, but SASSDPaper has only .*MergeClasses"):
        losses_of(model, [frame])


def test_labels_may_be_int32():
    model = build(sassd_cfg()).train()
    frame = car_frame(CARS)
    expected = losses_of(model, [frame])
    frame[1].gt_instances_3d.labels_3d = frame[1].gt_instances_3d.labels_3d.int()
    model = build(sassd_cfg()).train()
    for name, value in losses_of(model, [frame]).items():
        torch.testing.assert_close(value, expected[name])


def test_hard_voxels():
    cfg = sassd_cfg(voxel_encoder=dict(type="HardSimpleVFE"))
    cfg.data_preprocessor.voxel_type = "hard"
    cfg.data_preprocessor.voxel_layer.update(max_num_points=5, max_voxels=(2000, 2000))
    model = build(cfg).train()
    losses = losses_of(model, [car_frame(CARS)])
    assert all(torch.isfinite(value) for value in losses.values())
    model.voxel_encoder = None
    with pytest.raises(ValueError, match="HardSimpleVFE"):
        losses_of(model, [car_frame(CARS)])
    with pytest.raises(ValueError, match="voxel_type='dynamic'"):
        build(sassd_cfg(data_preprocessor=dict(type="Det3DDataPreprocessor")))


# ------------------------------------------------------------------------------------ energy head


def energy_model(**overrides):
    head = dict(
        num_classes=1,
        in_channels=24,
        origin=RANGE[:2],
        cell_size=0.4,
        objective=dict(type="NCEObjective", num_noise=8, noise=noise_cfg()),
    )
    return build(ebm_cfg(sassd_cfg(), head, feature_source="backbone.conv6", **overrides))


def test_conv6_feeds_the_energy_head(learned):
    model = energy_model()
    model.detector.load_state_dict(learned[0].state_dict())
    before = copy.deepcopy(model.detector.state_dict())
    model.train()
    losses = losses_of(model, [car_frame(CARS), car_frame(CARS[:0], seed=3)])
    losses["loss_energy"].backward()
    assert model.energy_head.trunk[0].weight.grad.any()
    assert all(p.grad is None for p in model.detector.parameters())
    for name, value in model.detector.state_dict().items():
        assert torch.equal(value, before[name]), name

    model.eval()
    (plain,) = predict(model.detector, [car_frame(CARS)])
    (refined,) = predict(model, [car_frame(CARS)])
    torch.testing.assert_close(refined.scores_3d, plain.scores_3d)
    assert refined.accepted_steps.any()
    assert (refined.bboxes_3d.tensor != plain.bboxes_3d.tensor).any()


def test_a_checkpoint_of_the_detector_loads_into_the_wrapper(learned):
    """With the layout of its sparse kernels, which the checkpoint's metadata tells."""
    model = energy_model()
    model.load_state_dict(learned[0].state_dict(), strict=False)
    for name, value in model.detector.state_dict().items():
        assert torch.equal(value, learned[0].state_dict()[name]), name


# --------------------------------------------------------------------------- frames without points


@pytest.mark.parametrize("voxel_type", ["dynamic", "hard"])
@pytest.mark.parametrize("boxes", [CARS, CARS[:0]])
def test_a_batch_without_points_gives_every_parameter_a_gradient(voxel_type, boxes):
    """Otherwise the next step of a distributed training would stop at unused parameters."""
    cfg = sassd_cfg()
    if voxel_type == "hard":
        cfg.voxel_encoder = dict(type="HardSimpleVFE")
        cfg.data_preprocessor.voxel_type = "hard"
        cfg.data_preprocessor.voxel_layer.update(max_num_points=5, max_voxels=(2000, 2000))
    model = build(cfg).train()
    frames = [(points[:0], sample) for points, sample in (car_frame(boxes), car_frame(CARS[:0]))]
    losses = losses_of(model, frames)
    assert losses["loss_aux_cls"] == losses["loss_aux_reg"] == 0
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert not model.middle_encoder.stem[0].conv.weight.grad.any()
    model.eval()
    for found in predict(model, frames):
        assert found.bboxes_3d.tensor.shape == (0, 7)
        assert found.labels_3d.dtype == torch.int64
