"""ROCK's recipes: one training step and one prediction of each, and the reference's numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import LabelData, PixelData

import ebm_mmdet  # noqa: F401  (registers our types)

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "configs" / "rock"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
SSD, ROCK = "ssd_r50_480x640_30k_nyuv2", "rock_ssd_r50_480x640_30k_nyuv2"
SIZE = (96, 128)
WIDTHS = {"in_channels", "mid_channels", "out_channels", "feature_channels", "feat_channels"}
WIDTHS |= {"fc_out_channels"}


def load(name: str) -> Config:
    return Config.fromfile(FOLDER / f"{name}.py")


def narrow(node) -> None:
    """Divide all widths by 8, take small images, and keep few boxes, in place."""
    if isinstance(node, (list, tuple)):
        for item in node:
            narrow(item)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key in WIDTHS:
            node[key] = [v // 8 for v in value] if isinstance(value, (list, tuple)) else value // 8
        elif key == "input_size":
            node[key] = SIZE
        elif key in ("nms_pre", "max_per_img"):
            node[key] = 20
        elif key == "score_thr":
            node[key] = 0.0
        else:
            narrow(value)
    if node.get("depth") == 50:
        node.update(base_channels=8, stem_channels=8, init_cfg=None)


def inner(model):
    """The detector inside all wrappers."""
    return inner(model.detector) if "detector" in model else model


def inputs(classes: int, stride: int, missing: bool) -> dict:
    """Two images; with ``missing`` the second has no truth of any auxiliary task."""
    torch.manual_seed(0)
    data = demo_mm_inputs(2, [(3, *SIZE)] * 2, num_items=[1, 2])
    h, w = SIZE[0] // stride, SIZE[1] // stride
    for i, sample in enumerate(data["data_samples"]):
        sample.gt_instances.labels %= classes
        if missing and i == 1:
            continue
        sample.gt_scene = LabelData(label=torch.tensor([3]))
        sample.gt_depth = PixelData(depth=1 + torch.rand(1, h, w))
        normals = torch.nn.functional.normalize(torch.randn(3, h, w), dim=0)
        mask = torch.ones(1, h, w, dtype=torch.bool)
        sample.gt_normals = PixelData(normals=normals, mask=mask)
    return data


@pytest.mark.parametrize("name", NAMES)
def test_one_training_step_and_one_prediction(name):
    torch.manual_seed(0)
    cfg = load(name)
    init_default_scope("mmdet")
    model_cfg = cfg.model
    if not name.startswith("rooms"):
        narrow(model_cfg)
    model = MODELS.build(model_cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    head = inner(model_cfg)
    classes = head.get("bbox_head", head.get("roi_head", {}).get("bbox_head")).num_classes
    steps = [step for step in cfg.train_pipeline if step.type == "AuxiliaryTargets"]
    stride = steps[0].stride if steps else 16
    tasks = {step.removeprefix("loss_") for step in ("loss_scene", "loss_depth", "loss_normals")}
    block = next((m for m in model.modules() if type(m).__name__ == "ROCKBlock"), None)
    expected = set(block.tasks.keys()) if block is not None else set()

    for missing in (False, True):
        model.train()
        optimizer.zero_grad()
        data = model.data_preprocessor(inputs(classes, stride, missing), True)
        losses = model(**data, mode="loss")
        loss, _ = model.parse_losses(losses)
        loss.backward()
        assert torch.isfinite(loss)
        if model_cfg.type == "EBMDetector":
            assert not any(p.requires_grad for p in model.detector.parameters())
        else:
            assert {t for t in tasks if f"loss_{t}" in losses} == expected
            # Not one idle parameter, which distributed training would stop at.
            idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert not idle
    optimizer.step()

    model.eval()
    with torch.no_grad():
        found = model.test_step(inputs(classes, stride, False))[0]
    assert torch.isfinite(found.pred_instances.bboxes).all()
    assert len(found.pred_instances) > 0
    assert {t for t in tasks if f"pred_{t}" in found} == expected
    if "depth" in expected:
        assert found.pred_depth.depth.shape[-2:] == (SIZE[0] // stride, SIZE[1] // stride)
    if model_cfg.type == "EBMDetector":
        assert torch.isfinite(found.pred_instances.log_density).all()


def test_the_references_numbers():
    """Optimiser, schedule, losses and test-time settings of the reference's training."""
    cfg = load(ROCK)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("Adam", 5e-5, 2e-3)
    assert cfg.train_cfg.max_iters == 30000
    (decay,) = cfg.param_scheduler
    assert (decay.milestones, decay.gamma, decay.by_epoch) == ([25000], 0.1, False)
    assert (cfg.train_dataloader.batch_size, cfg.train_dataloader.drop_last) == (8, True)
    detector, tasks = cfg.model.detector, cfg.model.block.tasks
    assert [tasks[t].loss_weight for t in ("scene", "depth", "normals")] == [3, 3, 30]
    assert detector.bbox_head.loc_weight == 6
    assert detector.test_cfg.nms == dict(type="nms", iou_threshold=0.3)
    assert (detector.test_cfg.score_thr, detector.test_cfg.max_per_class) == (0.05, 200)
    assert detector.test_cfg.max_per_img == 100
    assert cfg.val_evaluator[0].proposal_nums == (1, 10, 100)
    assert cfg.val_evaluator[0].classwise
    assert load(SSD).model == detector
    long = load("rock_ssd_r50_480x640_nyuv2_40k_trainval")
    assert long.train_cfg.max_iters == 40000
    assert long.param_scheduler[0].milestones == [30000]
    splits = [long[f"{s}_dataloader"].dataset.ann_file for s in ("train", "val", "test")]
    assert splits == [f"annotations/instances_{s}.json" for s in ("train", "val", "val")]
    assert long.val_evaluator[0].ann_file.endswith("instances_val.json")
    assert long.default_hooks.checkpoint.save_best == "coco/bbox_mAP"


def test_what_each_variant_changes():
    base = load(ROCK)

    def changed(name, *paths):
        cfg = load(f"{ROCK}_{name}")
        assert cfg.optim_wrapper == base.optim_wrapper
        assert cfg.train_dataloader == base.train_dataloader
        values = []
        for path in paths:
            node = cfg.model
            for key in path.split("."):
                node = node[key]
            values.append(node)
        return values

    paper = ("block.extra_convs", "detector.bbox_head.loc_weight", "block.tasks.depth.loss")
    assert changed("paper", *paper) == [False, 3, "berhu"]
    assert changed("flat", "block.fusion") == [False]
    assert changed("allpriors", "detector.bbox_head.all_priors") == [True]
    for task in ("scene", "depth", "normals"):
        (tasks,) = changed(task, "block.tasks")
        assert [name for name, cfg in tasks.items() if cfg] == [task]


NYUV2 = [name for name in NAMES if not name.startswith("rooms")]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_how_to_run_it_on_what_and_what_to_expect(name):
    text = (FOLDER / f"{name}.py").read_text().split('"""')[1]
    script = r"tools/dist_(train|test)\.sh" if name in NYUV2 else r"python tools/(train|test)\.py"
    commands = re.findall(rf"^ +{script} +(\S+)", text, flags=re.M)
    assert set(commands) == {(kind, f"configs/rock/{name}.py") for kind in ("train", "test")}
    assert "Hardware" in text
    assert "Data: " in text
    assert re.search(r"^Expected: ", text, flags=re.M)


def test_the_readme_and_the_recipes_give_the_same_published_numbers():
    rows = re.findall(
        r"^\| \[(\S+)\.py\].*\| published: ([\d.]+)(?:, ([\d.]+))?",
        (FOLDER / "README.md").read_text(),
        flags=re.M,
    )
    assert len(rows) == 5
    for name, *values in rows:
        text = (FOLDER / f"{name}.py").read_text().split('"""')[1]
        for value in filter(None, values):
            assert value in text, (name, value)
