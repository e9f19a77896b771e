"""One detector of mmdet's zoo with an energy head: does it train, predict, and keep what it must?

Weights are random and images are noise: what is tested is whether things fit, not what they gain.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import mmdet
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs, demo_mm_proposals
from mmengine.config import Config

from ebm_mmdet.apis import add_energy_head
from ebm_mmdet.models.detectors.dry_run import dry_run

from . import substitutes

__all__ = ["ZOO", "try_config"]

ZOO = Path(mmdet.__file__).parent / ".mim" / "configs"
BOXES = 20
"""Boxes that a detector keeps, so that no mask head works for minutes."""
SMALLEST_FOR_DEFORMABLE = 512
"""Pixels of the image where a head has deformable convolutions, which refuse a map smaller than
their kernel: at stride 128 this one has 4 x 4 cells."""
STEP = 1e-2
"""Step of the refiner: large, because a head without training has a flat f."""


def try_config(cfg: Config) -> dict:
    """Wrap a detector, take a training step, predict, and compare with the detector's own boxes.

    Args:
        cfg: config of the detector; weights are not loaded.

    Returns:
        ``strides``, ``in_channels``, ``feature_levels``, ``source``; ``boxes``, the number of the
        predicted ones, and ``moved``, of those that refinement moves; ``masks``, whether there are
        any; ``detector``, the class; ``remarks``, clauses about what was added for the trial.

    Raises:
        AssertionError: the wrapper does not keep what it promises.
        Exception: whatever the detector or the wrapper raises.
    """
    _without_weights(cfg.model)
    _find_teacher(cfg.model)
    # QueryInst's masks are those of all its queries, whatever it keeps.
    queries = cfg.model.get("rpn_head", {}).get("num_proposals")
    _few_boxes(cfg.model.get("test_cfg"), queries or BOXES)
    remarks = substitutes.plain_norms(cfg.model)
    if cfg.get("train_dataloader") and not cfg.get("test_dataloader"):
        cfg.test_dataloader = copy.deepcopy(cfg.train_dataloader)
    cfg = add_energy_head(cfg)
    step_size = cfg.model.refiner["step_size"]
    cfg.model.refiner["step_size"] = (
        STEP if isinstance(step_size, float) else [STEP] * len(step_size)
    )
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.detector.init_weights()  # proposals that a detector learns begin as whole images
    head = model.energy_head
    classes = cfg.model.energy_head.num_classes
    torch.nn.init.normal_(head.fc_energy.weight, std=1.0)  # else f is flat and no box moves
    _tame(model.detector)
    remarks += substitutes.complete(model.detector)
    size = dry_run(model.detector).size  # not every backbone takes any size
    if _has_deformable_head(model.detector):
        size = max(size, SMALLEST_FOR_DEFORMABLE)
    batch = demo_mm_inputs(
        1,
        [(3, size, size)],
        num_items=[3],
        num_classes=min(max(classes, 2), 250),  # none of label 0, and semantic maps are uint8
        with_mask=True,
        with_semantic=True,
    )
    for sample in batch["data_samples"]:
        sample.gt_instances.labels %= classes
    if not getattr(model.detector, "with_rpn", True):
        (batch["data_samples"][0].proposals,) = demo_mm_proposals([(3, size, size)], BOXES)
        remarks.append("with random proposals")
    frozen = {key: value.clone() for key, value in model.detector.state_dict().items()}
    model.train()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    losses = model.loss(data["inputs"], data["data_samples"])
    loss = sum(value for key, value in losses.items() if key.startswith("loss"))
    loss.backward()
    assert torch.isfinite(loss), f"the loss is {float(loss.detach())}"
    gradients = [each.grad for each in head.parameters() if each.grad is not None]
    assert any((each != 0).any() for each in gradients), "no gradient reaches the energy head"
    assert all(each.grad is None for each in model.detector.parameters()), (
        "gradients reach the detector"
    )
    after = model.detector.state_dict()
    assert all(torch.equal(after[key], value) for key, value in frozen.items()), (
        "the detector has changed"
    )
    return {**_predictions(model, batch), **_values(model, cfg), "remarks": remarks}


def _values(model, cfg: Config) -> dict:
    head = model.energy_head
    return dict(
        source=list(model.feature_sources),
        strides=list(head.strides),
        in_channels=list(head.in_channels),
        feature_levels=list(head.feature_levels),
        detector=type(model.detector).__name__,
    )


def _predictions(model, batch: Mapping) -> dict:
    """Predict with and without refinement; everything but the boxes must be the same."""
    model.eval()
    refiner, found = model.refiner, []
    with torch.no_grad():
        for each in (None, refiner):
            model.refiner = each
            data = model.data_preprocessor(copy.deepcopy(batch), False)
            torch.manual_seed(0)
            (sample,) = model.predict(data["inputs"], data["data_samples"])
            found.append(sample.pred_instances)
    before, refined = found
    assert len(before) == len(refined), f"{len(before)} boxes before and {len(refined)} after"
    for name in ("scores", "labels", "masks"):
        if name in before:
            same = torch.equal(torch.as_tensor(before[name]), torch.as_tensor(refined[name]))
            assert same, f"{name} have changed"
    moved = int((before.bboxes != refined.bboxes).any(1).sum()) if len(before) else 0
    return dict(boxes=len(before), moved=moved, masks="masks" in before)


def _without_weights(config) -> None:
    """Remove what loads weights from the internet, in all parts of a model's config."""
    if isinstance(config, Mapping):
        for key in ("init_cfg", "pretrained", "checkpoint_config"):
            if config.get(key) is not None:
                config[key] = None
        for key in ("teacher_ckpt",):
            if config.get(key) is not None:
                config[key] = None
        for value in config.values():
            _without_weights(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            _without_weights(value)


def _find_teacher(config) -> None:
    """The teacher's config is named from mmdet's own folder, where this does not run."""
    teacher = config.get("teacher_config")
    if isinstance(teacher, str) and not Path(teacher).exists():
        config["teacher_config"] = str(ZOO.parent / teacher)


def _tame(detector: torch.nn.Module) -> None:
    """Give standardised weights (DetectoRS) the scale that they have before standardisation.

    Loading a checkpoint without ``weight_gamma`` does this. With random weights and frozen
    batch norms each layer would multiply its input by some 20 to 50, up to infinity.
    """
    state = detector.state_dict()
    kept = {k: v for k, v in state.items() if not k.endswith(("weight_gamma", "weight_beta"))}
    if len(kept) < len(state):
        detector.load_state_dict(kept, strict=False)


def _has_deformable_head(detector: torch.nn.Module) -> bool:
    head = getattr(detector, "bbox_head", None)
    return head is not None and any("Deform" in type(each).__name__ for each in head.modules())


def _few_boxes(config, boxes: int) -> None:
    """Keep the best ``boxes`` whatever their score: random weights give low ones."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key == "score_thr" and isinstance(value, (int, float)):
                config[key] = 0.0
            elif key == "max_per_img" and isinstance(value, int):
                config[key] = boxes
            elif key == "nms_pre" and isinstance(value, int):
                config[key] = min(value, 100)
            else:
                _few_boxes(value, boxes)
    elif isinstance(config, (list, tuple)):
        for value in config:
            _few_boxes(value, boxes)
