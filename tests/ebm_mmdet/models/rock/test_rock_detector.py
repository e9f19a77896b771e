"""ROCKDetector: any detector with the block behind its backbone, used the ways users do."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.analysis import get_model_complexity_info
from mmengine.structures import InstanceData, LabelData, PixelData

from ebm_mmdet.models.test_time_augs.auxiliary_views import merge_auxiliary_views
from tests.ebm_mmdet.models.rock.rock_toys import (
    SIZE,
    TASKS,
    batch,
    block_cfg,
    build,
    rock_cfg,
    ssd_cfg,
)
from tests.ebm_mmdet.models.toys import energy_head_cfg
from tests.tolerances import TOLERANCE

DETECTORS = ["ssd", "faster_rcnn", "retinanet", "rtmdet"]
NAMES = ["pred_scene", "pred_depth", "pred_normals"]


def predict(model, data) -> list[DetDataSample]:
    with torch.no_grad():
        return model.predict(data["inputs"], copy.deepcopy(data["data_samples"]))


def args_of(data) -> tuple:
    return data["inputs"], data["data_samples"]


def fields(sample: DetDataSample) -> dict[str, torch.Tensor]:
    found = sample.pred_instances
    return dict(
        bboxes=found.bboxes,
        scores=found.scores,
        labels=found.labels,
        scene=sample.pred_scene.scores,
        ranking=sample.pred_scene.ranking,
        depth=sample.pred_depth.depth,
        normals=sample.pred_normals.normals,
    )


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        one, other = fields(one), fields(other)
        for name, value in other.items():
            torch.testing.assert_close(one[name], value, **TOLERANCE[torch.float32], msg=name)


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


def ebm_cfg(**overrides) -> dict:
    noise = dict(type="GaussianMixtureNoise", sigmas=[0.075, 0.15, 0.3], dim=4)
    return {
        "type": "EBMDetector",
        "detector": rock_cfg(),
        "feature_source": "detector.backbone",
        "energy_head": energy_head_cfg(
            in_channels=32,
            strides=[16],
            feature_levels=[0],
            objective=dict(type="NCEObjective", num_noise=7, beta=0.1, noise=noise),
        ),
        "refiner": dict(type="GradientAscentRefiner", step_size=1e-2, num_steps=2),
        **overrides,
    }


def test_an_energy_head_gets_the_blocks_output():
    model = build(ebm_cfg()).train()
    torch.nn.init.normal_(model.energy_head.fc_energy.weight, std=0.5)
    data = batch(model, training=True)
    rock = model.detector
    (maps,) = model.extract_maps(data["inputs"])
    assert torch.equal(maps, rock.extract_feat(data["inputs"])[0])
    block_free = copy.deepcopy(rock)
    block_free.block.fusion = False
    assert not torch.equal(maps, block_free.extract_feat(data["inputs"])[0])

    losses = model.loss(*args_of(data))
    assert losses["loss_energy"] > 0
    sum(value for key, value in losses.items() if "loss" in key).backward()
    assert all(p.grad is not None for p in model.energy_head.parameters())
    assert all(p.grad is None for p in rock.parameters())
    model.eval()
    for one, other in zip(predict(model, data), predict(rock, data)):
        assert {"log_density", "accepted_steps"} <= set(one.pred_instances.keys())
        for name, value in fields(other).items():
            if name not in ("bboxes",):
                assert torch.equal(fields(one)[name], value)


def test_an_energy_head_and_the_block_train_together():
    model = build(ebm_cfg(freeze_detector=False)).train()
    losses = model.loss(*args_of(batch(model, training=True)))
    assert {"loss_cls", "loss_scene", "loss_energy"} < losses.keys()
    total, _ = model.parse_losses(losses)
    total.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_rock_checkpoint_loads_into_the_energy_wrapper_and_so_does_its_own():
    rock, model = build(rock_cfg(), seed=1), build(ebm_cfg())
    model.load_state_dict(rock.state_dict())
    data = batch(model)
    assert_same(predict(model.detector, data), predict(rock, data))
    again = build(ebm_cfg(), seed=2)
    again.load_state_dict(model.state_dict())
    assert_same(predict(again, data), predict(model, data))


def test_the_trunk_starts_from_the_box_head_of_a_detector_inside():
    objective = energy_head_cfg()["objective"]
    model = build(
        ebm_cfg(
            detector=rock_cfg("faster_rcnn"),
            feature_source="detector.neck",
            energy_head=energy_head_cfg(fc_channels=[32, 32], objective=objective),
        )
    )
    layer = model.detector.detector.roi_head.bbox_head.shared_fcs[0]
    assert torch.equal(model.energy_head.trunk[0].weight, layer.weight)


def test_candidates_of_the_energy_head_reach_the_detector_inside():
    candidates = dict(type="EnergyGuidedNMS", score_thr=0.0, max_per_img=20)
    model = build(ebm_cfg(candidates=candidates))
    before = copy.deepcopy(dict(model.detector.detector.bbox_head.test_cfg))
    data = batch(model)
    for sample in predict(model, data):
        assert len(sample.pred_instances) == 20
        assert all(name in sample for name in NAMES)
    assert dict(model.detector.detector.bbox_head.test_cfg) == before


def view(direction: str | None, truth, size=(4, 6)) -> DetDataSample:
    """What a perfect network predicts of a mirrored image."""
    depth, normals, scores = truth
    sample = DetDataSample(
        metainfo=dict(flip=bool(direction), flip_direction=direction, ori_shape=(64, 96))
    )
    if direction in ("horizontal", "diagonal"):
        depth, normals = depth.flip(2), normals.flip(2) * torch.tensor([-1.0, 1, 1])[:, None, None]
    if direction in ("vertical", "diagonal"):
        depth, normals = depth.flip(1), normals.flip(1) * torch.tensor([1.0, -1, 1])[:, None, None]
    sample.pred_depth = PixelData(depth=depth)
    sample.pred_normals = PixelData(normals=normals)
    sample.pred_scene = LabelData(scores=scores, ranking=scores.argsort(descending=True))
    sample.pred_instances = InstanceData(
        bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long)
    )
    return sample


DIRECTIONS = ["horizontal", "vertical", "diagonal", None]


def test_views_of_a_perfect_network_merge_to_the_truth():
    truth = (
        torch.rand(1, 4, 6) + 0.5,
        torch.nn.functional.normalize(torch.randn(3, 4, 6), dim=0),
        torch.tensor([0.2, 0.5, 0.3]),
    )
    views = [view(direction, truth) for direction in DIRECTIONS]
    model = MODELS.build(
        dict(
            type="EBMTTAModel",
            module=rock_cfg(),
            tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=10),
        )
    )
    merged = model._merge_single_sample(views)
    for found, expected in zip(
        (merged.pred_depth.depth, merged.pred_normals.normals, merged.pred_scene.scores), truth
    ):
        torch.testing.assert_close(found, expected)
    assert merged.pred_scene.ranking.tolist() == [1, 2, 0]


def test_test_time_augmentation_of_a_whole_model():
    """The merged maps are the averages of what the model predicts of each view."""
    rock = build(rock_cfg())
    model = MODELS.build(
        dict(
            type="EBMTTAModel",
            module=rock,
            tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=10),
        )
    )
    image = torch.randint(256, (3, *SIZE), dtype=torch.uint8)
    inputs, samples = [], []
    for flip in (True, False):  # as in mmdet's configs, the mirrored view comes first
        meta = dict(
            img_shape=SIZE,
            ori_shape=SIZE,
            scale_factor=(1.0, 1.0),
            flip=flip,
            flip_direction="horizontal" if flip else None,
            img_id=0,
        )
        inputs.append([image.flip(2) if flip else image])
        samples.append([DetDataSample(metainfo=meta)])
    with torch.no_grad():
        (found,) = model.test_step(dict(inputs=inputs, data_samples=copy.deepcopy(samples)))
        (mirrored,), (straight,) = (
            rock.test_step(dict(inputs=x, data_samples=copy.deepcopy(each)))
            for x, each in zip(inputs, samples)
        )
    depth = (mirrored.pred_depth.depth.flip(2) * straight.pred_depth.depth).sqrt()
    torch.testing.assert_close(found.pred_depth.depth, depth)
    signs = torch.tensor([-1.0, 1, 1])[:, None, None]
    normals = mirrored.pred_normals.normals.flip(2) * signs + straight.pred_normals.normals
    normals = torch.nn.functional.normalize(normals, dim=0)
    torch.testing.assert_close(found.pred_normals.normals, normals)
    assert 0 < len(found.pred_instances) <= 10


def test_views_are_averaged():
    """Depth: geometric mean; normals: mean at length 1; scenes: mean; of other sizes: resized."""
    up, right = torch.tensor([0.0, 0, 1]), torch.tensor([1.0, 0, 0])
    one, two = (
        (torch.full((1, 4, 6), depth), normal[:, None, None].expand(3, 4, 6), scores)
        for depth, normal, scores in (
            (1.0, up, torch.tensor([1.0, 0.0])),
            (4.0, right, torch.tensor([0.2, 0.8])),
        )
    )
    big = (two[0].repeat(1, 2, 2), two[1].repeat(1, 2, 2), two[2])
    for second in (two, big):
        views = [view(None, one), view(None, second)]
        merge_auxiliary_views(views)
        torch.testing.assert_close(views[0].pred_depth.depth, torch.full((1, 4, 6), 2.0))
        expected = (0.5**0.5 * (up + right))[:, None, None].expand(3, 4, 6)
        torch.testing.assert_close(views[0].pred_normals.normals, expected)
        torch.testing.assert_close(views[0].pred_scene.scores, torch.tensor([0.6, 0.4]))
