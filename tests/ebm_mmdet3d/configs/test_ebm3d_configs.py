"""Every 3D recipe parses, builds, takes one training step and makes one prediction."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmdet3d.registry import METRICS, MODELS, PARAM_SCHEDULERS, TRANSFORMS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData

ROOT = Path(__file__).parents[3]
CONFIGS = sorted(path.name for path in (ROOT / "configs" / "ebm3d").glob("*.py"))
EBM_CONFIGS = [name for name in CONFIGS if "_nce" in name]


def load(name: str) -> Config:
    return Config.fromfile(ROOT / "configs" / "ebm3d" / name)


def reduce(cfg: Config) -> None:
    """A tenth of the map in each direction, few hidden units and few samples; same structure."""
    detector = cfg.model.get("detector", cfg.model)
    layer = detector.data_preprocessor.voxel_layer
    layer.point_cloud_range = [0, -6.4, -3, 12.8, 6.4, 1]
    cells = round(12.8 / layer.voxel_size[0])
    if detector.middle_encoder.type == "PointPillarsScatter":
        detector.voxel_encoder.point_cloud_range = layer.point_cloud_range
        detector.middle_encoder.output_shape = [cells, cells]
    else:
        detector.middle_encoder.sparse_shape[1:] = [cells, cells]
    anchors = detector.bbox_head.anchor_generator
    anchors.ranges = [[0, -6.4, r[2], 12.8, 6.4, r[5]] for r in anchors.ranges]
    detector.test_cfg.update(score_thr=0.0, max_num=5)
    if "guide_thr" in detector.test_cfg:
        detector.test_cfg.guide_thr = detector.train_cfg.guide_thr = 0.0
    if "energy_head" in cfg.model:
        head = cfg.model.energy_head
        head.update(origin=[0, -6.4], fc_channels=[32, 32])
        head.objective.num_noise = 8


def frames(num_boxes: list[int], num_classes: int) -> dict:
    points, samples = [], []
    for i, n in enumerate(num_boxes):
        g = torch.Generator().manual_seed(i)
        extent = torch.tensor([12.8, 12.8, 3.5, 1.0])
        lower = torch.tensor([0.0, -6.4, -2.8, 0.0])
        points.append(torch.rand(500, 4, generator=g) * extent + lower)
        boxes = torch.tensor([[6.0, 1.0, -1.7, 3.9, 1.6, 1.5, 0.3]]).repeat(n, 1)
        boxes[:, 0] += torch.arange(n) * 3.0
        sample = Det3DDataSample(metainfo=dict(box_type_3d=LiDARInstance3DBoxes))
        sample.gt_instances_3d = InstanceData(
            bboxes_3d=LiDARInstance3DBoxes(boxes), labels_3d=torch.arange(n) % num_classes
        )
        samples.append(sample)
    return {"inputs": {"points": points}, "data_samples": samples}


@pytest.mark.parametrize("name", CONFIGS)
def test_one_training_step_and_one_prediction(name):
    torch.manual_seed(0)
    cfg = load(name)
    init_default_scope("mmdet3d")
    reduce(cfg)
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    detector = cfg.model.get("detector", cfg.model)
    num_classes = detector.bbox_head.num_classes

    model.train()
    losses = model.train_step(frames([1, 2], num_classes), optimizer)
    assert torch.isfinite(losses["loss"])
    if cfg.model.type == "EBM3DDetector":
        assert not any(p.requires_grad for p in model.detector.parameters())
        assert losses["loss_energy"] > 0

    model.eval()
    with torch.no_grad():
        found = model.test_step(frames([1], num_classes))[0].pred_instances_3d
    assert len(found) > 0
    assert torch.isfinite(found.bboxes_3d.tensor).all()
    if cfg.model.type == "EBM3DDetector":
        assert torch.isfinite(found.log_density).all()


@pytest.mark.parametrize("name", EBM_CONFIGS)
def test_the_papers_numbers(name):
    """Noise, samples, steps and schedule of the CVPRW 2021 paper and its released code."""
    cfg = load(name)
    head, refiner = cfg.model.energy_head, cfg.model.refiner
    base = [0.05, 0.05, 0.025, 0.025, 0.025, 0.025, 0.0125]
    expected = [[1.25 * 2**k * s for s in base] for k in range(3)]
    assert head.objective.noise.sigmas == expected
    assert head.objective.num_noise == 128
    assert head.objective.beta == (0.1 if "nceplus" in name else 0)
    assert head.fc_channels == [1024, 1024]
    assert (refiner.step_size, refiner.num_steps, refiner.decay) == ([2e-4] * 7, 10, 0.5)
    assert cfg.train_cfg.max_epochs == 80
    assert (cfg.train_dataloader.batch_size, cfg.train_dataloader.dataset.times) == (2, 1)
    optimizer = cfg.optim_wrapper
    assert optimizer.optimizer.type == "AdamW"
    assert (optimizer.optimizer.betas, optimizer.optimizer.weight_decay) == ((0.95, 0.99), 0.01)
    assert optimizer.clip_grad == dict(max_norm=10, norm_type=2)
    assert cfg.default_hooks.checkpoint.interval == 5
    assert cfg.default_hooks.checkpoint.backend_args.backend == "atomic"


def test_the_schedule_is_the_papers_one_cycle():
    cfg = load("sassd_car_kitti_nce.py")
    init_default_scope("mmdet3d")
    layer = torch.nn.Linear(1, 1)
    optimizer = build_optim_wrapper(layer, cfg.optim_wrapper).optimizer
    epoch_length = 3  # stands for 1,856 iterations
    schedulers = [
        PARAM_SCHEDULERS.build(
            entry, default_args=dict(optimizer=optimizer, epoch_length=epoch_length)
        )
        for entry in copy.deepcopy(cfg.param_scheduler)
    ]
    rates, momenta = [], []
    for _ in range(80 * epoch_length):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    peak = rates.index(max(rates))
    assert rates[0] == pytest.approx(3e-4, rel=1e-3)
    assert max(rates) == pytest.approx(3e-3, rel=1e-3)
    assert rates[-1] == pytest.approx(3e-8, rel=1e-2)
    assert peak == pytest.approx(0.4 * len(rates), abs=2)
    assert momenta[0] == pytest.approx(0.95)
    assert min(momenta) == pytest.approx(0.85, abs=1e-4)
    assert momenta.index(min(momenta)) == pytest.approx(peak, abs=2)
    assert momenta[-1] == pytest.approx(0.95, abs=1e-3)


@pytest.mark.parametrize("name", EBM_CONFIGS)
def test_cells_of_the_head_are_those_of_the_map(name):
    cfg = load(name)
    detector, head = cfg.model.detector, cfg.model.energy_head
    layer = detector.data_preprocessor.voxel_layer
    stride = 2 if detector.middle_encoder.type == "PointPillarsScatter" else 8
    assert list(head.origin) == pytest.approx(layer.point_cloud_range[:2])
    assert head.cell_size == pytest.approx(stride * layer.voxel_size[0])
    channels = detector.neck.out_channels if "neck" in detector else [detector.backbone.channels]
    assert head.in_channels == sum(channels)
    assert head.num_classes == detector.bbox_head.num_classes


def test_vans_are_trained_on_as_cars_and_evaluation_needs_no_gpu():
    cfg = load("sassd_car_kitti_nce.py")
    dataset = cfg.train_dataloader.dataset.dataset
    assert dataset.metainfo.classes == dataset.pipeline[2].classes == ["Car", "Van"]
    kinds = [step.type for step in dataset.pipeline]
    assert kinds[1:3] == ["LoadAnnotations3D", "MergeClasses3D"]
    assert "ObjectCornerRangeFilter" in kinds
    assert "ObjectRangeFilter" not in kinds
    assert cfg.test_dataloader.dataset.metainfo.classes == ["Car"]
    init_default_scope("mmdet3d")
    for name in EBM_CONFIGS:
        assert METRICS.get(load(name).val_evaluator.type).__name__ == "EBMKittiMetric"
    assert all(TRANSFORMS.get(kind) is not None for kind in kinds)


def test_inherited_as_a_base_of_a_users_config(tmp_path):
    user = tmp_path / "user.py"
    user.write_text(
        "_base_ = ['ebm_mmdet::ebm3d/second_car_kitti_nce.py']\n"
        "model = dict(refiner=dict(num_steps=3))\n"
    )
    cfg = Config.fromfile(user)
    reduce(cfg)
    init_default_scope("mmdet3d")
    model = MODELS.build(cfg.model)
    assert type(model).__name__ == "EBM3DDetector"
    assert model.data_preprocessor is model.detector.data_preprocessor
    assert model.refiner.num_steps == 3
    assert get_config("ebm_mmdet::ebm3d/second_car_kitti_nce.py").model.type == "EBM3DDetector"
