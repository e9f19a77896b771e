"""The part that tools/train.py and tools/test.py share: arguments, config and runner."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.runner import Runner

import ebm_mmdet.registry  # noqa: F401  (before any config with an `ebm_mmdet::` base is read)

from ..datasets import use_checked_annotations
from ..engine import CompleteWeightsHook, ReadableCheckpointHook
from .config_options import OptionsAction, UsageError, merge_options
from .distributed import prepare_distributed

__all__ = [
    "add_common_arguments",
    "build_runner",
    "evaluator_cfgs",
    "load_config",
    "set_evaluation_metrics",
    "type_name",
]

# Values of `metric` that the evaluators of mmdet accept.
EVALUATOR_METRICS = {
    "CocoMetric": ("bbox", "segm", "proposal", "proposal_fast"),
    "HighIoUCocoMetric": ("bbox", "segm", "proposal", "proposal_fast"),
    "LVISMetric": ("bbox", "segm", "proposal", "proposal_fast"),
    "VOCMetric": ("mAP", "recall"),
    "KittiMetric": ("bbox", "img_bbox"),
    "EBMKittiMetric": ("bbox", "img_bbox"),
}


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of mmdet's tools that training and testing have in common."""
    parser.add_argument(
        "config", help="a config file, or the name of a packaged one: ebm_mmdet::ebm/NAME.py"
    )
    parser.add_argument(
        "--work-dir", help="folder for logs and results; default: work_dirs/CONFIG_NAME"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=OptionsAction,
        metavar="KEY=VALUE",
        help="override settings of the config, e.g. model.refiner.num_steps=5, "
        "model.detector.backbone.out_indices=1,2 or "
        'visualizer.nested="[(a,b),(c,d)]" (quoted, without spaces)',
    )
    parser.add_argument(
        "--incomplete",
        action="store_true",
        help="go on with a checkpoint that does not fit: weights that it lacks stay random",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    # Old launchers use the first spelling, those of torch >= 2.0 the second.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config, apply ``--cfg-options``, and set the work folder and the launcher.

    The work folder is that of the command line, else that of the config, else it is named after
    the config.

    Raises:
        FileNotFoundError: the config does not exist.
        UsageError: nothing would read an option (:func:`merge_options`).
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = get_config(args.config) if "::" in args.config else Config.fromfile(args.config)
    merge_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        name = args.config.rpartition("::")[2]
        cfg.work_dir = str(Path("work_dirs", Path(name).stem))
    return cfg


def build_runner(cfg: Config, incomplete: bool = False) -> Runner:
    """Build the runner of the config, for GPUs or, if there are none, for the CPU.

    Args:
        cfg: the config.
        incomplete: whether the run may go on with weights that its checkpoint lacks
            (:class:`~ebm_mmdet.engine.CompleteWeightsHook`).

    Raises:
        AnnotationError: an annotation file in COCO format lacks what a data set or a metric needs
            (:mod:`ebm_mmdet.datasets.annotation_check`).
    """
    from mmdet.registry import RUNNERS
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    use_checked_annotations()
    setup_cache_size_limit_of_dynamo()
    prepare_distributed(cfg, cfg.launcher)
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    runner.register_hook(ReadableCheckpointHook())
    runner.register_hook(CompleteWeightsHook(refuse=not incomplete))
    return runner


def type_name(part: Mapping) -> str:
    """Name of ``part['type']``: a string, maybe with a scope, or a class (mmengine's new style)."""
    kind = part["type"]
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]


def evaluator_cfgs(evaluator: object) -> list[ConfigDict]:
    """Configs of all metrics of a ``val_evaluator`` or ``test_evaluator``.

    Args:
        evaluator: one metric, a list of them, or an evaluator that holds ``metrics``, such as
            mmdet's ``MultiDatasetsEvaluator``; None for none.
    """
    if isinstance(evaluator, (list, tuple)):
        return [cfg for part in evaluator for cfg in evaluator_cfgs(part)]
    if not evaluator:
        return []
    return evaluator_cfgs(evaluator["metrics"]) if "metrics" in evaluator else [evaluator]


def set_evaluation_metrics(cfg: Config, metrics: list[str]) -> None:
    """Evaluate ``metrics`` (``--eval``) instead of those of the config's test evaluators.

    Args:
        cfg: the config; its ``test_evaluator`` is changed in place.
        metrics: names as in mmdet 2: bbox, segm, proposal, proposal_fast, mAP, recall. Every
            evaluator of the config, for any data set, gets those that it can compute; an evaluator
            that can compute none of them stays unchanged.

    Raises:
        UsageError: none of the config's evaluators computes one of the metrics, or one computes
            only one at a time.
    """
    accepted = {}
    for evaluator in evaluator_cfgs(cfg.get("test_evaluator")):
        name = type_name(evaluator)
        accepted[name] = EVALUATOR_METRICS.get(name, ())
        chosen = [metric for metric in metrics if metric in accepted[name]]
        if name == "VOCMetric" and len(chosen) > 1:
            raise UsageError(f"--eval {' '.join(chosen)}: VOCMetric computes one of them at a time")
        if chosen:
            evaluator["metric"] = chosen
    unknown = [m for m in metrics if not any(m in names for names in accepted.values())]
    if unknown:
        offers = "; ".join(f"{n}: {', '.join(m) or 'no choice'}" for n, m in accepted.items())
        raise UsageError(
            f"--eval {' '.join(unknown)}: no evaluator of this config computes that "
            f"({offers or 'it has no test_evaluator'}). Choose one of these, or change "
            "test_evaluator in the config."
        )
