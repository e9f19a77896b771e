"""What tools/train.py and tools/test.py share: arguments and the config they make of them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.hub import get_config
from mmengine.runner import Runner

import ebm_mmdet.registry  # noqa: F401  (before any config is read: `ebm_mmdet::` bases)

from .distributed import prepare_distributed

__all__ = ["add_common_arguments", "build_runner", "load_config", "set_evaluation_metrics"]

# What the evaluators of mmdet accept as `metric`.
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
        action=DictAction,
        metavar="KEY=VALUE",
        help="override settings of the config, e.g. model.refiner.num_steps=5 "
        'data.list=a,b or data.nested="[(a,b),(c,d)]" (quoted, without spaces)',
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    # Old launchers pass the first spelling, those of torch >= 2.0 the second.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config, apply ``--cfg-options``, and settle the work folder and the launcher.

    The work folder is taken from the command line, else from the config, else from its name.

    Raises:
        FileNotFoundError: there is no such config.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = get_config(args.config) if "::" in args.config else Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        name = args.config.rpartition("::")[2]
        cfg.work_dir = str(Path("work_dirs", Path(name).stem))
    return cfg


def build_runner(cfg: Config) -> Runner:
    """The runner that the config asks for, on GPUs or, where there are none, on the CPU."""
    from mmdet.registry import RUNNERS
    from mmdet.utils import setup_cache_size_limit_of_dynamo

    setup_cache_size_limit_of_dynamo()
    prepare_distributed(cfg, cfg.launcher)
    return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)


def set_evaluation_metrics(cfg: Config, metrics: list[str]) -> None:
    """Evaluate ``metrics`` (``--eval``) instead of what the config's test evaluators name.

    Args:
        cfg: the config; its ``test_evaluator`` is changed in place.
        metrics: names as in mmdet 2: bbox, segm, proposal, proposal_fast, mAP, recall.

    Raises:
        ValueError: none of the config's evaluators computes one of the metrics.
    """
    evaluators = cfg.get("test_evaluator") or []
    evaluators = [evaluators] if isinstance(evaluators, (dict, ConfigDict)) else list(evaluators)
    accepted = {}
    for evaluator in evaluators:
        name = str(evaluator["type"]).rpartition(".")[2]
        accepted[name] = EVALUATOR_METRICS.get(name, ())
        chosen = [metric for metric in metrics if metric in accepted[name]]
        if chosen:
            evaluator["metric"] = chosen
    unknown = [m for m in metrics if not any(m in names for names in accepted.values())]
    if unknown:
        offers = "; ".join(f"{n}: {', '.join(m) or 'no choice'}" for n, m in accepted.items())
        raise ValueError(
            f"--eval {' '.join(unknown)}: no evaluator of this config computes that "
            f"({offers or 'it has no test_evaluator'}). Choose one of these, or change "
            "test_evaluator in the config."
        )
