"""ROCKDetector: any detector with the block behind its backbone, used the ways users do."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from mmengine.analysis import get_model_complexity_info

from tests.ebm_mmdet.models.rock.rock_predictions import (
    NAMES,
    args_of,
    assert_same,
    fields,
    predict,
)
from tests.ebm_mmdet.models.rock.rock_toys import (
    SIZE,
    TASKS,
    batch,
    block_cfg,
    build,
    rock_cfg,
    ssd_cfg,
)

DETECTORS = ["ssd", "faster_rcnn", "retinanet", "rtmdet"]


@pytest.mark.parametrize("name", DETECTORS)
def test_any_detector_trains_a_step_and_predicts(name):
    model = build(rock_cfg(name)).train()
    losses = model.loss(*args_of(batch(model, training=True)))
    assert {"loss_scene", "loss_depth", "loss_normals"} < losses.keys()
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
    total.backward()
    for key, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    assert model.block.encoder[0][0].weight.grad.any()
    model.eval()
    stride = 16 if name == "ssd" else 32
    for sample in predict(model, batch(model)):
        assert sample.pred_instances.bboxes.shape[1] == 4
        assert sample.pred_depth.depth.shape == (1, *(side // stride for side in SIZE))
        assert sample.pred_normals.normals.shape == (3, *(side // stride for side in SIZE))
        assert sample.pred_scene.scores.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("names", [(), ("scene",), ("depth",), ("normals",), ("scene", "normals")])
@pytest.mark.parametrize("fusion", [True, False])
def test_every_subset_trains(names, fusion):
    model = build(rock_cfg(block=block_cfg(names, fusion=fusion))).train()
    losses = model.loss(*args_of(batch(model, training=True)))
    assert losses.keys() == {"loss_cls", "loss_bbox", *(f"loss_{name}" for name in names)}
    sum(losses.values()).backward()
    missing = [key for key, p in model.named_parameters() if p.grad is None]
    assert missing == []
    model.eval()
    (sample,) = predict(model, batch(model, (1,)))
    assert {key for key in sample.keys() if key in NAMES} == {f"pred_{name}" for name in names}  # noqa: SIM118


@pytest.mark.parametrize(
    "block", [block_cfg(fusion=False), block_cfg(())], ids=["flat", "no tasks"]
)
def test_without_fusion_the_boxes_are_those_of_the_detector_alone(block):
    """fusion off == SSD, for the losses too."""
    plain = build(ssd_cfg())
    model = build(rock_cfg(block=block))
    model.load_state_dict(plain.state_dict())
    data = batch(model)
    for one, other in zip(predict(model, data), predict(plain, data)):
        for key in ("bboxes", "scores", "labels"):
            assert torch.equal(one.pred_instances[key], other.pred_instances[key])
    losses = model.loss(*args_of(data))
    for key, value in plain.loss(*args_of(data)).items():
        assert torch.equal(losses[key], value)


def test_the_blocks_map_takes_the_place_of_one_level():
    """features(detector with block) = neck(..., block(c_level), ...)."""
    for level, channels in ((-1, 64), (1, 16)):
        model = build(rock_cfg("retinanet", block_cfg(in_channels=channels), level=level))
        x = batch(model)["inputs"]
        detector = model.detector
        found = model.extract_feat(x)
        hooks, detector.backbone._forward_hooks = detector.backbone._forward_hooks, {}
        maps = list(detector.backbone(x))
        detector.backbone._forward_hooks = hooks
        maps[level] = model.block(maps[level])[0]
        for one, other in zip(found, detector.neck(maps)):
            assert torch.equal(one, other)


def test_images_without_boxes_and_without_targets_train_everything():
    """A batch of nothing: every loss of a task is 0, and every parameter has a gradient."""
    model = build(rock_cfg()).train()
    data = batch(model, (0, 0), training=True)
    for sample in data["data_samples"]:
        for name in TASKS:
            delattr(sample, f"gt_{name}")
    losses = model.loss(*args_of(data))
    assert all(value == 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_losses_are_float32_under_autocast():
    model = build(rock_cfg()).train()
    data = batch(model, training=True)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.loss(*args_of(data))
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert all(value.isfinite() for value in losses.values())
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        (sample,) = predict(model, batch(model, (1,)))
    assert {sample.pred_depth.depth.dtype, sample.pred_scene.scores.dtype} == {torch.float32}


def test_threads_do_not_see_each_other():
    """predict(x) is the same function of x, while other threads predict."""
    model = build(rock_cfg())
    inputs = [batch(model, seed=seed) for seed in range(4)]
    expected = [predict(model, data) for data in inputs]
    assert (expected[0][0].pred_depth.depth != expected[1][0].pred_depth.depth).any()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for found, alone in zip(pool.map(partial(predict, model), inputs), expected):
                assert_same(found, alone)


def test_images_of_several_sizes_in_one_batch():
    """Each image has targets, and gets maps, of its own size; padding is in no loss."""
    model = build(rock_cfg())
    small = (48, 80)
    whole, part = batch(model, (2,)), batch(model, (1,), size=small, seed=1)
    inputs = [each["inputs"][0] for each in (whole, part)]
    raw = dict(
        inputs=[(each * 55 + 110).round().to(torch.uint8) for each in inputs],
        data_samples=[copy.deepcopy(each["data_samples"][0]) for each in (whole, part)],
    )
    data = model.data_preprocessor(raw, False)
    one, two = predict(model, data)
    assert one.pred_depth.depth.shape == (1, 4, 6)
    assert two.pred_depth.depth.shape == (1, 3, 5)
    assert two.pred_normals.normals.shape == (3, 3, 5)
    losses = model.loss(*args_of(data))
    assert all(value.isfinite() for value in losses.values())
    with model._predictions() as predictions:
        model.extract_feat(data["inputs"])
    log_depth = predictions["depth"]
    truth = [each.gt_depth.depth.log() for each in data["data_samples"]]
    errors = [log_depth[0] - truth[0], log_depth[1, :, :3, :5] - truth[1]]
    every = torch.cat([each.flatten() for each in errors])
    expected = 3 * torch.nn.functional.smooth_l1_loss(every, torch.zeros_like(every))
    torch.testing.assert_close(losses["loss_depth"], expected)


def test_a_model_in_bfloat16_predicts():
    model = build(rock_cfg())
    data = batch(model)
    half = copy.deepcopy(model).bfloat16()
    for found, expected in zip(
        predict(half, {**data, "inputs": data["inputs"].bfloat16()}), predict(model, data)
    ):
        for name, value in fields(found).items():
            assert value.dtype == fields(expected)[name].dtype
            assert value.isfinite().all()
        found, expected = found.pred_depth.depth.log(), expected.pred_depth.depth.log()
        torch.testing.assert_close(found, expected, atol=0.1, rtol=0.1)


def test_a_call_stores_nothing_on_the_module():
    model = build(rock_cfg())
    data = batch(model)
    predict(model, data)
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    model.loss(*args_of(data))
    predict(model, data)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before


def test_a_copy_and_a_saved_model_have_a_block_of_their_own():
    model = build(rock_cfg())
    data = batch(model)
    expected = predict(model, data)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert_same(predict(twin, data), expected)
        with torch.no_grad():
            for parameter in twin.block.parameters():
                parameter.add_(0.5)
        assert not torch.equal(
            predict(twin, data)[0].pred_scene.scores, expected[0].pred_scene.scores
        )
        assert_same(predict(model, data), expected)


def test_a_checkpoint_of_the_detector_alone_loads():
    plain, model = build(ssd_cfg(), seed=1), build(rock_cfg())
    block = copy.deepcopy(model.block.state_dict())
    model.load_state_dict(plain.state_dict())  # strict
    for key, value in plain.state_dict().items():
        assert torch.equal(model.detector.state_dict()[key], value)
    for key, value in block.items():
        assert torch.equal(model.block.state_dict()[key], value)
    again = build(rock_cfg(), seed=2)
    again.load_state_dict(model.state_dict())
    assert_same(predict(again, batch(model)), predict(model, batch(model)))


def test_a_counter_of_operations_sees_the_block():
    model = build(rock_cfg())
    data = batch(model, (1,))
    flops = []
    for each in (model, build(ssd_cfg())):
        each.forward = partial(each.forward, data_samples=data["data_samples"], mode="tensor")
        flops.append(
            get_model_complexity_info(each, None, inputs=data["inputs"], show_table=False)["flops"]
        )
    rock, plain = flops
    cells = SIZE[0] // 16 * (SIZE[1] // 16)
    weights = [m.weight.numel() for m in model.block.modules() if isinstance(m, torch.nn.Conv2d)]
    # Norms are counted too, and are no small part of so narrow a block.
    assert 1 <= (rock - plain) / (cells * sum(weights)) < 1.25


def test_a_level_that_does_not_exist_is_refused_by_name():
    model = build(rock_cfg(level=1))
    with pytest.raises(ValueError, match=r"level=1.*gives 1 levels"):
        model.extract_feat(batch(model)["inputs"])


@pytest.mark.parametrize("name", ["train_cfg", "test_cfg"])
def test_a_config_that_nothing_reads_is_refused(name):
    with pytest.raises(ValueError, match=rf"ROCKDetector got {name}=.*model\.detector\.{name}"):
        build(rock_cfg(**{name: dict(score_thr=0.5)}))


def test_a_detector_without_a_backbone_is_refused():
    inner = rock_cfg()
    with pytest.raises(ValueError, match="ROCKDetector has no backbone"):
        build(dict(type="ROCKDetector", detector=inner, block=block_cfg()))
