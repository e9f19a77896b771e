"""What tools/train.py and tools/test.py share: arguments and the config they make of them."""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.hub import get_config
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

import ebm_mmdet.registry  # noqa: F401  (before any config is read: `ebm_mmdet::` bases)

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
    "set_evaluation_metrics",
]

# What mmengine's runners and the tools read from a config besides the runner's own parameters.
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

# What the evaluators of mmdet accept as `metric`.
EVALUATOR_METRICS = {
    "CocoMetric": ("bbox", "segm", "proposal", "proposal_fast"),
    "HighIoUCocoMetric": ("bbox", "segm", "proposal", "proposal_fast"),
    "LVISMetric": ("bbox", "segm", "proposal", "proposal_fast"),
    "VOCMetric": ("mAP", "recall"),
    "KittiMetric": ("bbox", "img_bbox"),
    "EBMKittiMetric": ("bbox", "img_bbox"),
}


class UsageError(ValueError):
    """Arguments that cannot work; the message says which, and what to do."""


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
    # Old launchers pass the first spelling, those of torch >= 2.0 the second.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config, apply ``--cfg-options``, and settle the work folder and the launcher.

    The work folder is taken from the command line, else from the config, else from its name.

    Raises:
        FileNotFoundError: there is no such config.
        UsageError: an option that nothing would read (:func:`merge_options`).
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


def merge_options(
    cfg: Config, options: Mapping[str, object] | None, read: Collection[str] = ()
) -> None:
    """Apply ``--cfg-options`` to a config in place, if they can have an effect.

    A variable at the top level of a config file, such as ``energy_head = dict(...)``, is a name
    for what the file puts into ``model``; it stays in the config, and nothing reads it there. To
    set it would be accepted and change nothing.

    Args:
        cfg: the config.
        options: dotted key to value, as :class:`mmengine.config.DictAction` makes them.
        read: keys at the top level that the calling tool reads besides those of a runner.

    Raises:
        UsageError: an option whose first key nothing reads; the message names what has the same
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
            f"--cfg-options {option}={options[option]}: no effect, since {is_there}. {remedy}"
            "What a run reads begins with model, train_dataloader, optim_wrapper, and so on; a "
            "variable of the file is changed in the file."
        )
    cfg.merge_from_dict(options)
    if any(option.partition(".")[0] == "custom_imports" for option in options):
        import_modules_from_strings(**cfg.custom_imports)  # reading the file has imported its own


def _runner_keys(runner_type: str | None) -> set[str]:
    """Keys of a config that a type of runner takes, ``work_dir`` and ``model`` among them."""
    from mmdet.registry import RUNNERS

    kind = (RUNNERS.get(runner_type) if runner_type else None) or Runner
    return {*inspect.signature(kind.__init__).parameters} - {"self", "cfg"}


def _same_content(cfg: Config, option: str, known: Collection[str]) -> list[str]:
    """Where the part of a leftover variable that an option names went to, by its content."""
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
    """Paths below the keys that are read which end as the option does, or whose parent does.

    The longest common ending wins: ``energy_head.pool_size`` finds ``model.energy_head.pool_size``
    and not the ``pool_size`` of another part. A ``type`` alone says nothing.
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
    """Path, as a list of keys, and value of everything below the keys that are read."""

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
    """The option with its first key spelt as one that is read, if it is nearly that."""
    first, dot, rest = option.partition(".")
    return [
        name + dot + rest for name in difflib.get_close_matches(first, sorted(known), 1, cutoff=0.8)
    ]


def build_runner(cfg: Config) -> Runner:
    """The runner that the config asks for, on GPUs or, where there are none, on the CPU.

    Raises:
        AnnotationError: an annotation file in COCO format is not as a data set or a metric needs
            it (:mod:`ebm_mmdet.datasets.coco_check`).
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
    """Evaluate ``metrics`` (``--eval``) instead of what the config's test evaluators name.

    Args:
        cfg: the config; its ``test_evaluator`` is changed in place.
        metrics: names as in mmdet 2: bbox, segm, proposal, proposal_fast, mAP, recall. Every
            metric of the config, of all its data sets, gets those that it knows; one that knows
            none of them stays as it is.

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
