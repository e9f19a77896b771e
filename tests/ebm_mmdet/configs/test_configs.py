"""Every recipe parses, builds, takes one training step and makes one prediction."""

from __future__ import annotations

import inspect
from pathlib import Path

import mmdet.registry
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.registry import (
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    PARAM_SCHEDULERS,
    VISUALIZERS,
)
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import Registry, init_default_scope

from ebm_mmdet.visualization.uncertainty import UncertaintyVisualizer  # noqa: F401  registers it

ROOT = Path(__file__).parents[3]
CONFIGS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "configs").rglob("*.py")
    if "_base_" not in path.parts
    and "ebm3d" not in path.parts
    and "regression" not in path.parts  # test_regression_configs.py
    and not path.name.startswith("lidar_")
)
EBM_CONFIGS = [path for path in CONFIGS if path.startswith("configs/ebm/")]
KL_CONFIGS = [path for path in CONFIGS if path.startswith("configs/kl_loss/")]


def load(path: str) -> Config:
    return Config.fromfile(ROOT / path)


POSITIVE = ("NCEObjective", "DSMObjective")
"""The losses that cannot be negative."""

FEW_BOXES = dict(score_thr=0.0, nms_pre=20, max_per_img=20)
"""An untrained detector returns boxes at this threshold, and not eighty classes of a thousand."""


def low_thresholds(cfg) -> None:
    if isinstance(cfg, dict):
        for key, value in cfg.items():
            if key in FEW_BOXES:
                cfg[key] = FEW_BOXES[key]
            else:
                low_thresholds(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            low_thresholds(value)


def num_classes(cfg) -> int:
    detector = cfg.model.get("detector", cfg.model)
    head = detector.roi_head.bbox_head if "roi_head" in detector else detector.bbox_head
    return (head[0] if isinstance(head, list) else head).num_classes  # a cascade has several


def make_inputs(num_items: list[int], classes: int) -> dict:
    inputs = demo_mm_inputs(len(num_items), [(3, 96, 128)] * len(num_items), num_items=num_items)
    for sample in inputs["data_samples"]:
        sample.gt_instances.labels %= classes
    return inputs


# Those of ROCK need targets of their tasks: test_rock_configs.py.
@pytest.mark.parametrize("path", [path for path in CONFIGS if "/rock/" not in path])
def test_one_training_step_and_one_prediction(path):
    # Some random weights leave an untrained detector without a single box of positive size.
    torch.manual_seed(0)
    cfg = load(path)
    init_default_scope("mmdet")
    low_thresholds(cfg.model)
    for part in (cfg.model, cfg.model.get("detector", {})):
        if part.get("data_preprocessor"):
            part.data_preprocessor.batch_augments = None
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    classes = num_classes(cfg)
    inputs = make_inputs([1, 2], classes)

    model.train()
    losses = model.train_step(inputs, optimizer)
    assert torch.isfinite(losses["loss"])
    if cfg.model.type == "EBMDetector":
        assert not any(p.requires_grad for p in model.detector.parameters())
        assert losses["loss_energy"] > 0 or cfg.model.energy_head.objective.type not in POSITIVE

    model.eval()
    inputs = make_inputs([1], classes)
    with torch.no_grad():
        found = model.test_step(inputs)[0].pred_instances
    assert len(found) > 0
    if cfg.model.type != "YOLOX":  # the exponential of random outputs overflows
        assert torch.isfinite(found.bboxes).all()
    if cfg.model.type == "EBMDetector":
        assert torch.isfinite(found.log_density).all()


@pytest.mark.parametrize("path", EBM_CONFIGS)
def test_the_papers_numbers(path):
    """Schedule, samples and steps of the BMVC 2020 paper and its released code."""
    cfg = load(path)
    assert cfg.train_cfg.max_iters == 60000
    warmup, decay = cfg.param_scheduler
    assert (warmup.end, warmup.start_factor) == (500, pytest.approx(1 / 3))
    assert decay.milestones == [40000, 50000]
    head, refiner = cfg.model.energy_head, cfg.model.refiner
    if refiner.type == "GradientAscentRefiner":
        assert (refiner.num_steps, refiner.decay) == (10, 0.5)
    if head.fc_channels == [1024, 1024]:
        optimizer = cfg.optim_wrapper
        assert (optimizer.optimizer.lr, optimizer.optimizer.weight_decay) == (0.001, 1e-4)
        assert optimizer.paramwise_cfg == dict(bias_lr_mult=2.0, bias_decay_mult=0.0)
        plus = head.objective.get("beta", 0) == 0.1
        if isinstance(refiner.get("step_size"), list):
            assert refiner.step_size[0] == (8e-4 if plus else 4e-4)
            assert refiner.step_size[2] == 4 * refiner.step_size[0]


NARROW, WIDE = [0.0375, 0.075, 0.15], [0.075, 0.15, 0.3]


@pytest.mark.parametrize(
    ("method", "numbers"),
    [
        ("nceplus", dict(type="NCEObjective", num_noise=127, beta=0.1, sigmas=WIDE)),
        ("nce", dict(type="NCEObjective", num_noise=127, beta=0.0, sigmas=WIDE)),
        ("mlis", dict(type="MLISObjective", num_noise=127, sigmas=NARROW)),
        ("kldis", dict(type="KLDISObjective", num_samples=128, sigmas=NARROW, label_sigma=0.0225)),
        ("mlmcmc", dict(type="MCMCObjective", num_steps=8)),
        ("dsm", dict(type="DSMObjective", sigma=0.075)),
        ("sm", dict(type="ScoreMatchingObjective")),
    ],
)
def test_all_seven_methods_with_the_papers_settings(method, numbers):
    objective = load(f"configs/ebm/faster_rcnn_r50_fpn_{method}.py").model.energy_head.objective
    found = {**objective, "sigmas": objective.get("noise", {}).get("sigmas")}
    assert {key: found[key] for key in numbers} == numbers


@pytest.mark.parametrize("path", EBM_CONFIGS + KL_CONFIGS)
def test_checkpoints_are_atomic(path):
    assert load(path).default_hooks.checkpoint.backend_args.backend == "atomic"


@pytest.mark.parametrize("path", KL_CONFIGS)
def test_kl_loss_with_the_papers_settings(path):
    cfg = load(path)
    detector = cfg.model.get("detector", cfg.model)
    head = detector.roi_head.bbox_head if "roi_head" in detector else detector.bbox_head
    assert head.loss_bbox.type == "KLLoss"
    assert head.loss_bbox.form == ("gaussian" if "gaussian" in path else "smooth")
    assert head.bbox_coder.type == "DeltaXYXYBBoxCoder"
    assert head.bbox_coder.target_stds == [0.1] * 4
    test_cfg = detector.test_cfg.get("rcnn", detector.test_cfg)
    if "_2x_" not in path or "varvote" in path:
        assert (test_cfg.var_vote.sigma_t, test_cfg.var_vote.iou_thr) == (0.02, 0.0)
        assert test_cfg.var_vote.candidates == "all"
    else:
        assert "var_vote" not in test_cfg
    soft = dict(type="soft_nms", method="gaussian", sigma=0.5, min_score=1e-3)
    hard = dict(type="nms", iou_threshold=0.5)
    assert test_cfg.nms == (soft if "softnms" in path else hard)
    assert (test_cfg.score_thr, test_cfg.max_per_img) == (0.05, 100)
    if "_2x_" in path:
        assert cfg.train_cfg.max_epochs == 24
        assert cfg.param_scheduler[1].milestones == [16, 22]
        assert (head.num_classes, head.reg_class_agnostic) == (80, False)
    for name in (cfg.visualizer.type, "ebm_mmdet.KLLoss", head.type):
        registry = VISUALIZERS if name == cfg.visualizer.type else MODELS
        assert registry.get(name) is not None


OURS = [
    (registry, name, cls)
    for registry in vars(mmdet.registry).values()
    if isinstance(registry, Registry)
    for name, cls in registry.module_dict.items()
    if cls.__module__.startswith("ebm_mmdet.")
]


@pytest.mark.parametrize(("registry", "name", "cls"), OURS, ids=[name for _, name, _ in OURS])
def test_every_registered_type_has_three_spellings(registry, name, cls):
    init_default_scope("mmdet")
    assert name == cls.__name__
    package = cls.__module__.rpartition(".")[0]
    for spelling in (name, f"ebm_mmdet.{name}", f"{package}.{name}"):
        assert registry.get(spelling) is cls


def test_the_spellings_cover_every_kind_of_part():
    names = {name for _, name, _ in OURS}
    assert {"EBMDetector", "NCEObjective", "ShapesDataset", "NormEvalHook"} <= names
    assert {"HighIoUCocoMetric", "UncertaintyVisualizer"} <= names


NOT_ARGUMENTS = ("type", "_scope_", "priority")
"""Keys that mmengine takes out before it builds a part."""


def accepts(registry: Registry, part: dict) -> None:
    """The registry knows the type, and the type takes the arguments."""
    cls = registry.get(part["type"])
    assert cls is not None, part["type"]
    arguments = {key: value for key, value in part.items() if key not in NOT_ARGUMENTS}
    inspect.signature(cls).bind_partial(**arguments)


def as_list(value) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value] if value else []


@pytest.mark.parametrize("path", CONFIGS)
def test_everything_around_the_model_exists(path):
    """Pipelines build; data sets, hooks, evaluators and loops are known and take the arguments."""
    cfg = load(path)
    init_default_scope("mmdet")
    for split in ("train", "val", "test"):
        dataset = cfg[f"{split}_dataloader"].dataset
        accepts(DATASETS, dataset)
        while "dataset" in dataset:
            dataset = dataset.dataset
            accepts(DATASETS, dataset)
        Compose(dataset.pipeline)
        accepts(LOOPS, {"dataloader": None, **cfg[f"{split}_cfg"]})
    for hook in [*cfg.default_hooks.values(), *as_list(cfg.get("custom_hooks"))]:
        accepts(HOOKS, hook)
    for evaluator in as_list(cfg.val_evaluator) + as_list(cfg.test_evaluator):
        accepts(METRICS, evaluator)
    for scheduler in as_list(cfg.get("param_scheduler")):
        accepts(PARAM_SCHEDULERS, scheduler)
    accepts(VISUALIZERS, cfg.visualizer)
