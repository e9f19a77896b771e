"""The part that tools/train.py and tools/test.py share: arguments, config and runner."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.hub import get_config
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

import ebm_mmdet.registry  # noqa: F401  (before any config with an `ebm_mmdet::` base is read)

from ..datasets import use_checked_annotations
from ..engine import ReadableCheckpointHook
from .distributed import prepare_distributed

__all__ = [
    "UsageError",
    "add_common_arguments",
    "build_runner",
    "evaluator_cfgs",
    "load_config",
    "merge_options",
    "parse_options",
    "set_evaluation_metrics",
]

# Keys that mmengine's runners and the tools read besides the parameters of the runner.
OTHER_KEYS = {
    "activation_checkpointing",
    "compile",
    "custom_imports",
    "efficient_conv_bn_eval",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "runner_type",
    "sync_bn",
    "tta_model",
    "tta_pipeline",
}

# Values of `metric` that the evaluators of mmdet accept.
EVALUATOR_METRICS = {
    "CocoMetric": ("bbox", "segm", "proposal", "proposal_fast"),
    "HighIoUCocoMetric": ("bbox", "segm", "proposal", "proposal_fast"),
    "LVISMetric": ("bbox", "segm", "proposal", "proposal_fast"),
    "VOCMetric": ("mAP", "recall"),
    "KittiMetric": ("bbox", "img_bbox"),
    "EBMKittiMetric": ("bbox", "img_bbox"),
}


class UsageError(ValueError):
    """Arguments that cannot work; the message names them and the remedy."""


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
        help="override settings of the config, e.g. model.refiner.num_steps=5, "
        "model.detector.backbone.out_indices=1,2 or "
        'visualizer.nested="[(a,b),(c,d)]" (quoted, without spaces)',
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


def parse_options(pairs: Sequence[str] | None) -> dict[str, object]:
    """Options ``KEY=VALUE``, as :class:`mmengine.config.DictAction` reads them.

    Raises:
        UsageError: one has no ``=``.
    """
    for pair in pairs or ():
        if "=" not in pair:
            raise UsageError(f"--cfg-options {pair}: expected KEY=VALUE")
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    arguments = ["--cfg-options", *pairs] if pairs else []
    return parser.parse_args(arguments).cfg_options or {}


def merge_options(
    cfg: Config, options: Mapping[str, object] | None, read: Collection[str] = ()
) -> None:
    """Apply ``--cfg-options`` to a config in place, after a check that they have an effect.

    A variable at the top level of a config file, such as ``energy_head = dict(...)``, names a value
    that the file puts into ``model``. The variable stays in the config, but nothing reads it, so
    setting it would silently change nothing.

    Args:
        cfg: the config.
        options: value of each dotted key, in the format of :class:`mmengine.config.DictAction`.
        read: top-level keys that the calling tool reads besides those of a runner.

    Raises:
        UsageError: nothing reads the first key of an option; the message suggests keys of the same
            name in the parts of the config that are read.
    """
    options = dict(options or {})
    runner = options.get("runner_type", cfg.get("runner_type"))
    known = {*_runner_keys(runner), *OTHER_KEYS, *read}
    for option in options:
        first = option.partition(".")[0]
        if first in known:
            continue
        is_there = (
            f"{first!r} is a variable of the config file that nothing reads"
            if first in cfg
            else f"the config has no {first!r}, and nothing would read it"
        )
        meant = (
            _same_content(cfg, option, known)
            or _same_name(cfg, option, known)
            or _close_name(option, known)
        )
        remedy = f"Did you mean {' or '.join(meant)}? " if meant else ""
        raise UsageError(
            f"--cfg-options {option}={options[option]}: no effect, because {is_there}. {remedy}"
            "The keys that a run reads begin with model, train_dataloader, optim_wrapper, and so "
            "on; change a variable of the file in the file."
        )
    cfg.merge_from_dict(options)
    if any(option.partition(".")[0] == "custom_imports" for option in options):
        import_modules_from_strings(**cfg.custom_imports)  # those of the file are already imported


def _runner_keys(runner_type: str | None) -> set[str]:
    """Keys of a config that a type of runner takes, such as ``work_dir`` and ``model``."""
    from mmdet.registry import RUNNERS

    kind = (RUNNERS.get(runner_type) if runner_type else None) or Runner
    return {*inspect.signature(kind.__init__).parameters} - {"self", "cfg"}


def _same_content(cfg: Config, option: str, known: Collection[str]) -> list[str]:
    """Paths, below the keys that are read, of the content of the variable in the option."""
    keys = option.split(".")
    part, best = cfg._cfg_dict, []
    for depth, key in enumerate(keys, start=1):
        if isinstance(part, Mapping):
            part = part.get(key)
        elif isinstance(part, list) and key.isdigit() and int(key) < len(part):
            part = part[int(key)]
        else:
            break
        # Numbers and names are equal by chance; a dictionary, or a list of some, is not.
        first = part[0] if isinstance(part, list) and part else part
        if not (isinstance(first, Mapping) and first):
            break
        same = [path for path, value in _parts(cfg, known) if value == part]
        best = [path + keys[depth:] for path in same] or best
    return _shown(best)


def _same_name(cfg: Config, option: str, known: Collection[str]) -> list[str]:
    """Paths, below the keys that are read, with the same ending as the option or its parent.

    The longest common ending counts: ``energy_head.pool_size`` finds
    ``model.energy_head.pool_size`` and not the ``pool_size`` of another part. A common ``type``
    alone does not count.
    """
    wanted = option.split(".")
    paths = [path for path, _ in _parts(cfg, known)]
    for end, new in ((wanted, []), (wanted[:-1], wanted[-1:])):
        for start in range(len(end)):
            tail = end[start:]
            found = [path for path in paths if path[-len(tail) :] == tail]
            if found and tail != ["type"]:
                return _shown([path + new for path in found])
    return []


def _shown(paths: list[list[str]], most: int = 3) -> list[str]:
    return [".".join(path) for path in sorted(paths, key=len)[:most]]


def _parts(cfg: Config, known: Collection[str]) -> Iterator[tuple[list[str], object]]:
    """Path (a list of keys) and value of everything below the keys that are read."""

    def walk(value: object) -> Iterator[tuple[list[str], object]]:
        if isinstance(value, Mapping):
            items = value.items()
        else:
            items = enumerate(value) if isinstance(value, (list, tuple)) else ()
        for key, item in items:
            yield [str(key)], item
            yield from (([str(key), *path], inner) for path, inner in walk(item))

    return walk({key: value for key, value in cfg.items() if key in known})


def _close_name(option: str, known: Collection[str]) -> list[str]:
    """The option with its first key corrected to one that is read, if the spelling is close."""
    first, dot, rest = option.partition(".")
    return [
        name + dot + rest for name in difflib.get_close_matches(first, sorted(known), 1, cutoff=0.8)
    ]


def build_runner(cfg: Config) -> Runner:
    """Build the runner of the config, for GPUs or, if there are none, for the CPU.

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
    return runner


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
        UsageError: none of the config's evaluators computes one of the metrics.
    """
    accepted = {}
    for evaluator in evaluator_cfgs(cfg.get("test_evaluator")):
        name = str(evaluator["type"]).rpartition(".")[2]
        accepted[name] = EVALUATOR_METRICS.get(name, ())
        chosen = [metric for metric in metrics if metric in accepted[name]]
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
