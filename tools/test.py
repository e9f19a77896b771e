#!/usr/bin/env python
"""Test a model: tools/test.py CONFIG CHECKPOINT [--eval bbox]."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults, MultiDatasetsEvaluator
from mmengine.config import Config, ConfigDict
from mmengine.fileio import dump
from mmengine.hooks import Hook

from ebm_mmdet.apis.inspection import inner_datasets
from ebm_mmdet.engine.command_line import (
    add_common_arguments,
    build_runner,
    evaluator_cfgs,
    load_config,
    set_evaluation_metrics,
    type_name,
)
from ebm_mmdet.engine.config_options import UsageError
from ebm_mmdet.engine.stored_intervals import StoredIntervalsHook, model_digest
from ebm_mmdet.engine.user_errors import USER_ERRORS


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--eval",
        nargs="+",
        metavar="METRIC",
        help="metrics instead of those in the config, e.g. bbox (COCO) or mAP (VOC)",
    )
    parser.add_argument("--out", help="write the predictions to this new file (.pkl)")
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument("--show-dir", help="folder for pictures, inside WORK_DIR/TIMESTAMP")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds per shown picture")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    args = parser.parse_args(argv)
    if not Path(args.checkpoint).is_file() and "://" not in args.checkpoint:
        parser.error(f"there is no checkpoint {args.checkpoint}")
    if args.out is not None:
        if not args.out.endswith((".pkl", ".pickle")):
            parser.error(f"--out {args.out}: the file must end in .pkl or .pickle")
        if Path(args.out).exists():
            parser.error(f"--out {args.out} exists: remove it, or give another name")
    return args


def mirrored(pipeline: Sequence[ConfigDict]) -> list[ConfigDict]:
    """Make a test pipeline that returns the image and its mirror image.

    Raises:
        UsageError: its last step is not PackDetInputs, so the position for the flip is unknown.
    """
    pipeline = deepcopy(list(pipeline))
    names = [type_name(step) for step in pipeline]
    if names[-1:] != ["PackDetInputs"]:
        raise UsageError(
            f"--tta: the test pipeline ends with {', '.join(names[-1:]) or 'nothing'}, expected "
            "PackDetInputs. Write tta_pipeline into the config."
        )
    pack = pipeline[-1]
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    pack.meta_keys = (*pack.get("meta_keys", keys), "flip", "flip_direction")
    flips = [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)]
    # Before the padding, because the merged boxes are mirrored within the image.
    first = names.index("Pad") if "Pad" in names else len(pipeline) - 1
    steps = [flips, *([step] for step in pipeline[first:])]
    return [*pipeline[:first], dict(type="TestTimeAug", transforms=steps)]


def find_mask_head(model: Mapping) -> str:
    """Dotted key of the mask head in the config of a model, or of a model inside it; '' if none."""
    for key, part in model.items():
        if key == "mask_head" and part:
            return key
        inner = find_mask_head(part) if isinstance(part, Mapping) else ""
        if inner:
            return f"{key}.{inner}"
    return ""


def use_test_time_augmentation(cfg: Config) -> None:
    """Wrap the model in the config's ``tta_model``; by default, merge image and mirror image.

    mmdet's ``DetTTAModel`` is replaced by ours, which merges boxes in the same way and keeps their
    other fields. Every data set gets the config's ``tta_pipeline``, or its own pipeline with the
    flip.

    Raises:
        UsageError: the flip cannot be inserted into the pipeline of a data set, or the model
            predicts masks, which cannot be merged.
    """
    if mask_head := find_mask_head(cfg.model):
        raise UsageError(
            f"--tta: the model has a mask head (model.{mask_head}), and test-time augmentation "
            "cannot merge masks. Leave --tta out; or, if the model works without it, add "
            f"--cfg-options model.{mask_head}=None"
        )
    if "tta_model" not in cfg:
        nms = dict(type="nms", iou_threshold=0.5)
        counted = [each.get("max_dets") or 0 for each in evaluator_cfgs(cfg.get("test_evaluator"))]
        tta_cfg = dict(nms=nms, max_per_img=max([100, *counted]))
        cfg.tta_model = dict(type="EBMTTAModel", tta_cfg=tta_cfg)
    elif type_name(cfg.tta_model) == "DetTTAModel":
        # Ours merges the same boxes and keeps the other fields of each box.
        cfg.tta_model.type = "EBMTTAModel"
    for dataset in inner_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = deepcopy(cfg.get("tta_pipeline")) or mirrored(dataset.pipeline)
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def draw_predictions(cfg: Config, args: argparse.Namespace) -> list[Hook]:
    """Switch on what ``--show`` and ``--show-dir`` ask for.

    Returns:
        Hooks to register besides those of the config: mmdet3d's own draws LiDAR frames in a window
        of open3d only, and takes them for images unless the config has its ``vis_task``.

    Raises:
        UsageError: the config has no hook that draws, or ``--show`` would draw points as an image.
    """
    hook = cfg.get("default_hooks", {}).get("visualization") or {}
    if cfg.get("default_scope") == "mmdet3d" and "vis_task" not in hook:
        if args.show:
            raise UsageError(
                "--show: mmdet3d shows frames in a window of open3d, and has to know what they "
                "are. Add --cfg-options default_hooks.visualization.vis_task=lidar_det (or "
                "mono_det, multi-view_det, multi-modality_det); or give --show-dir, for pictures "
                "from above"
            )
        from ebm_mmdet3d.visualization.bev_pictures_hook import BEVPicturesHook

        return [BEVPicturesHook(args.show_dir)]
    if not hook:
        raise UsageError(
            "--show, --show-dir: the config has no hook that draws; add --cfg-options "
            "default_hooks.visualization.type=DetVisualizationHook"
        )
    trigger_visualization_hook(cfg, args)
    return []


class DumpWholeResults(DumpDetResults):
    """Writes the predictions completely or not at all, and readable on any machine."""

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        # mmengine moves tensors to the CPU, but not mmdet3d's boxes.
        samples = []
        for sample in data_samples:
            found = sample.get("pred_instances_3d")
            if found is not None and "bboxes_3d" in found:
                found = {**found, "bboxes_3d": found["bboxes_3d"].to("cpu")}
                sample = {**sample, "pred_instances_3d": found}
            samples.append(sample)
        super().process(data_batch, samples)

    def compute_metrics(self, results: list) -> dict:
        dump(results, self.out_file_path, backend_args=dict(backend="atomic"))
        return {}


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        cfg = load_config(args)
        cfg.load_from = args.checkpoint
        cfg.resume = False
        if args.eval:
            set_evaluation_metrics(cfg, args.eval)
        hooks = draw_predictions(cfg, args) if args.show or args.show_dir else []
        digest = model_digest(cfg)
        if args.tta:
            use_test_time_augmentation(cfg)
        runner = build_runner(cfg, args.incomplete)
        for hook in (StoredIntervalsHook(digest), *hooks):
            runner.register_hook(hook)
        if args.out is not None:
            writer = DumpWholeResults(out_file_path=args.out)
            runner.test_evaluator.metrics.append(writer)
        runner.test()
    except USER_ERRORS as error:
        sys.exit(f"test: {error}")
    if args.out is not None and isinstance(runner.test_evaluator, MultiDatasetsEvaluator):
        # It requires one metric per data set, and the writer is an additional one.
        writer.evaluate(len(runner.test_dataloader.dataset))
    return 0


if __name__ == "__main__":
    sys.exit(main())
