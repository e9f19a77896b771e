#!/usr/bin/env python
"""Convert the authors' 2D checkpoint, a Faster R-CNN with an energy head trained by NCE+, to one of this project.

    tools/model_converters/ebm2d_to_ebm_mmdet.py nce+_model_0060000.pth work_dirs/official_nceplus.pth
    tools/test.py configs/ebm/faster_rcnn_r50_caffe_fpn_nceplus_official.py work_dirs/official_nceplus.pth --eval bbox

The file is that of github.com/fregu856/ebms_regression, which is written with maskrcnn-benchmark. Published for it on COCO
val2017: AP 39.36, AP50 57.99, AP75 42.63, APs 22.20, APm 42.57, APl 51.88. Of the config with `--cfg-options
model.refiner=None model.candidates=None`: about 36.8, the detector alone.

Changes besides names:

    variances of norms   running_var - 1e-5, since maskrcnn-benchmark's frozen norms add no epsilon and mmdet's do
    class outputs        row 0, the background: to the end in the box head, dropped in the energy head
    box outputs          rows 0 to 3, of the background, dropped
    anchors              dropped, after they have been found equal to those of the config

What cannot be in weights is in the config: boxes whose widths are x2 - x1 + 1 (`legacy_plus_one`), and anchors, resize and
normalisation of maskrcnn-benchmark.
"""  # noqa: E501

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ebm_mmdet.engine.checkpoint_conversion import (
    ConversionError,
    conversion_command,
    read_state_dict,
    rename_state,
    without_wrapper,
    write_state,
)

CONFIG = (
    Path(__file__).resolve().parents[2]
    / "configs"
    / "ebm"
    / "faster_rcnn_r50_caffe_fpn_nceplus_official.py"
)
EPSILON = 1e-5
"""What batch norms of mmdet add to a variance."""
ANCHORS = "rpn.anchor_generator.cell_anchors."
BODY = "backbone.body."


def module_names() -> dict[str, str]:
    """The authors' module names to ours; tensors below them keep their last name.

    The layers of the ResNet are not listed: they keep their names, below ``detector.backbone``,
    where ``stem`` is left out.
    """
    names = {
        "rpn.head.conv": "detector.rpn_head.rpn_conv",
        "rpn.head.cls_logits": "detector.rpn_head.rpn_cls",
        "rpn.head.bbox_pred": "detector.rpn_head.rpn_reg",
        "roi_heads.box.feature_extractor.fc6": "detector.roi_head.bbox_head.shared_fcs.0",
        "roi_heads.box.feature_extractor.fc7": "detector.roi_head.bbox_head.shared_fcs.1",
        "roi_heads.box.predictor.cls_score": "detector.roi_head.bbox_head.fc_cls",
        "roi_heads.box.predictor.bbox_pred": "detector.roi_head.bbox_head.fc_reg",
        "roi_heads.iou.feature_extractor.fc6": "energy_head.trunk.0",
        "roi_heads.iou.feature_extractor.fc7": "energy_head.trunk.1",
        "roi_heads.iou.predictor.iou_pred": "energy_head.fc_energy",
    }
    for level in range(4):
        names[f"backbone.fpn.fpn_inner{level + 1}"] = f"detector.neck.lateral_convs.{level}.conv"
        names[f"backbone.fpn.fpn_layer{level + 1}"] = f"detector.neck.fpn_convs.{level}.conv"
    return names


MODULES = module_names()


def place(key: str) -> str | None:
    """Our name of a tensor, or None."""
    if key.startswith(BODY):
        return f"detector.backbone.{key.removeprefix(BODY).removeprefix('stem.')}"
    module, _, tensor = key.rpartition(".")
    ours = MODULES.get(module)
    return None if ours is None else f"{ours}.{tensor}"


def transform(key: str, value: Tensor) -> Tensor:
    """The converted values of a tensor; the module's docstring lists the changes."""
    if key.endswith("running_var"):
        return value - EPSILON
    if ".cls_score." in key:
        return value.roll(-1, 0)
    if ".box.predictor.bbox_pred." in key:
        return value[4:]
    return value[1:] if ".iou_pred." in key else value


def check_anchors(official: dict[str, Tensor], ours: list[Tensor]) -> None:
    """Compare the anchors in the file with those of the config's generator.

    Args:
        official: tensors of the file; it may have no anchors.
        ours: (A, 4) of each level, half open; the file's end one pixel before.

    Raises:
        ConversionError: they differ by more than rounding.
    """
    for level, expected in enumerate(ours):
        found = official.get(f"{ANCHORS}{level}")
        if found is None:
            continue
        half_open = found + found.new_tensor([0, 0, 1, 1])
        if half_open.shape != expected.shape or not torch.allclose(half_open, expected, atol=1e-3):
            raise ConversionError(
                f"{ANCHORS}{level} is {half_open.tolist()} half open, and the config's generator "
                f"has {expected.tolist()}; change anchor_generator in a copy of {CONFIG.name}"
            )


def convert(
    official: dict[str, Tensor], expected: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename and rearrange the tensors of the authors' model.

    Args:
        official: tensors by name, with or without the prefix ``module.``.
        expected: state dict of our model, with the required names and shapes.

    Returns:
        A copy of ``expected`` with the converted values, and the names of the anchors, which no
        weight of ours corresponds to.

    Raises:
        ConversionError: a tensor is missing, has another shape, or has an unknown name.
    """
    official = without_wrapper(official)
    return rename_state(official, expected, place, transform, lambda name: name.startswith(ANCHORS))


def our_model() -> torch.nn.Module:
    """The model of the config, not trained."""
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    import ebm_mmdet  # noqa: F401  (registers the models)

    init_default_scope("mmdet")
    return MODELS.build(Config.fromfile(CONFIG).model)


def run(source: Path, target: Path) -> int:
    """Convert a file and print a report; returns the number of converted tensors.

    Raises:
        ConversionError: see :func:`convert` and :func:`check_anchors`; or ``target`` exists.
    """
    from mmdet.datasets import CocoDataset

    official = without_wrapper(read_state_dict(source, ("model", "state_dict")))
    model = our_model()
    state, left_out = convert(official, model.state_dict())
    check_anchors(official, model.detector.rpn_head.prior_generator.base_anchors)
    meta = dict(
        converted_from=source.name, dataset_meta=dict(classes=CocoDataset.METAINFO["classes"])
    )
    write_state(target, state, meta)
    converted = len(official) - len(left_out)
    print(f"{source}: {converted} tensors converted to {target}")
    print(f"config: configs/ebm/{CONFIG.name}")
    return converted


def main(argv: list[str] | None = None) -> None:
    """Convert the file; report errors that the user can fix in one line."""
    conversion_command(Path(__file__), __doc__, run, argv)


if __name__ == "__main__":
    main()
