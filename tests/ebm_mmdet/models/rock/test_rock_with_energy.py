"""An energy head on a detector with the block."""

from __future__ import annotations

import copy

import torch

from tests.ebm_mmdet.models.rock.rock_predictions import (
    NAMES,
    args_of,
    assert_same,
    fields,
    predict,
)
from tests.ebm_mmdet.models.rock.rock_toys import batch, build, rock_cfg
from tests.ebm_mmdet.models.toys import energy_head_cfg


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
