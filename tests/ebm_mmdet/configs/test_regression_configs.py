"""Every recipe of image regression parses, builds, takes one training step and predicts."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmcv.transforms import Compose
from mmdet.registry import DATASETS, HOOKS, LOOPS, METRICS, MODELS, PARAM_SCHEDULERS, VISUALIZERS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from ebm_mmdet.regression import RegressionDataSample
from tests.ebm_mmdet.configs.test_configs import accepts, as_list

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "configs" / "regression"
CONFIGS = sorted(
    path.relative_to(FOLDER).as_posix()
    for path in FOLDER.rglob("*.py")
    if "_base_" not in path.parts
)
DEMO = [path for path in CONFIGS if path.startswith("demo/")]
PAPERS = [path for path in CONFIGS if path.startswith(("steering", "cell200", "utkface", "biwi"))]


def load(path: str) -> Config:
    init_default_scope("mmdet")
    return Config.fromfile(FOLDER / path)


def head_of(cfg: Config):
    model = cfg.model
    return model.head if "head" in model else model.student.head


def without_downloads(part) -> None:
    if isinstance(part, dict):
        if (part.get("init_cfg") or {}).get("type") == "Pretrained":
            part.init_cfg = None
        for value in part.values():
            without_downloads(value)


def samples_inside(codec, count: int) -> list[RegressionDataSample]:
    """Labels at the middle of the declared ranges."""
    middle = torch.tensor([0.5 * (low + high) for low, high in codec.ranges]).round()
    return [RegressionDataSample(gt_target=middle.clone()) for _ in range(count)]


# The papers' recipes for one number differ in their data alone; utkface stands for all three.
TRAINED = [path for path in CONFIGS if not path.startswith(("steering", "cell200"))]


@pytest.mark.parametrize("path", TRAINED)
def test_one_training_step_and_one_prediction(path):
    torch.manual_seed(0)
    cfg = load(path)
    without_downloads(cfg.model)
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    samples = samples_inside(head_of(cfg).codec, 2)
    inputs = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in samples]
    model.train()
    losses = model.train_step(dict(inputs=inputs, data_samples=deepcopy(samples)), optimizer)
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in losses.values())
    assert any(name.startswith("loss") for name in losses)
    model.eval()
    with torch.no_grad():
        (found, _) = model.test_step(dict(inputs=inputs, data_samples=samples))
    assert found.pred_target.shape == found.gt_target.shape
    assert torch.isfinite(found.pred_target).all()
    if "direct" not in path:
        assert torch.isfinite(found.gt_log_prob)
        assert found.pred_interval.shape == (4, 2, len(found.gt_target))


@pytest.mark.parametrize("path", CONFIGS)
def test_everything_around_the_model_exists(path):
    cfg = load(path)
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader")
        if loader is None:
            continue
        dataset = loader.dataset
        accepts(DATASETS, dataset)
        Compose(dataset.pipeline)
        accepts(LOOPS, {"dataloader": None, **cfg[f"{split}_cfg"]})
    for hook in [*cfg.default_hooks.values(), *as_list(cfg.get("custom_hooks"))]:
        accepts(HOOKS, hook)
    for evaluator in as_list(cfg.get("val_evaluator")) + as_list(cfg.test_evaluator):
        accepts(METRICS, evaluator)
        METRICS.build(evaluator)
    for scheduler in as_list(cfg.get("param_scheduler")):
        accepts(PARAM_SCHEDULERS, scheduler)
    accepts(VISUALIZERS, cfg.visualizer)
    assert cfg.default_hooks.checkpoint.backend_args.backend == "atomic"
    assert "methods" not in cfg
    assert path.rpartition("/")[2] in (FOLDER / path).read_text()  # the command that it states


@pytest.mark.parametrize("path", DEMO)
def test_ranges_are_those_of_the_generated_labels(path):
    cfg = load(path)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    target, codec = dataset.metainfo["target"], head_of(cfg).codec
    assert [tuple(row) for row in codec.ranges] == [tuple(row) for row in target["ranges"]]
    assert bool(codec.get("dequantise")) == target["integer"]
    assert tuple(codec.get("periods") or [None] * len(codec.ranges)) == tuple(target["periods"])
    seeds = [cfg[f"{split}_dataloader"].dataset.seed for split in ("train", "val", "test")]
    assert len(set(seeds)) == 3


@pytest.mark.parametrize("path", PAPERS)
def test_the_papers_numbers(path):
    """Schedule, samples and widths of the released code of the AISTATS 2022 paper."""
    cfg = load(path)
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (75, 32)
    assert cfg.optim_wrapper.optimizer == dict(type="Adam", lr=1e-3)
    assert [hook.until for hook in cfg.custom_hooks if hook.type == "FreezeBackboneHook"] == [20]
    backbone = (cfg.model if "backbone" in cfg.model else cfg.model.student).backbone
    assert (backbone.depth, backbone.init_cfg.checkpoint) == (18, "torchvision://resnet18")
    parts = [cfg.model.get("head"), cfg.model.get("teacher", {}).get("head")]
    for head in parts:
        if head is not None and head.type == "EBMRegressionHead":
            assert (tuple(head.y_dims), head.hidden) == ((16, 32, 64, 128), 512)
            if "objective" in head:
                assert head.objective.num_noise == 1024
            if "proposal" in head:
                assert head.proposal.num_components == 4
    if "mdn" in path:
        student = cfg.model.student.head if "teacher" in cfg.model else cfg.model.head
        assert student.get("num_components", 4) == 4
    if "teacher" in cfg.model:
        assert cfg.model.num_noise == 1024
