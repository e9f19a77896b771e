#!/usr/bin/env python
"""The studies behind docs/results.md: one command, one table, error bars.

    tools/study.py refinement CONFIG --out DIR            does refinement pay? Heads, rivals, priors
    tools/study.py objectives STUDY.yaml --out DIR        which objective trains the head best?
    tools/study.py detectors STUDY.yaml --out DIR         which detector, and which way to test it?
    tools/study.py jittered CONFIG CKPT [CKPT ...]        true 3D boxes, moved at random and refined
    tools/study.py intervals CONFIG CKPT                  do calibrated intervals hold?
    tools/study.py regression --out DIR                   images to numbers: which method for what?
    tools/study.py audit CONFIG CKPT --ann VAL.json --train-ann TRAIN.json --out DIR
                                                          planted errors: which score finds them?
    tools/study.py config STUDY.yaml ROW --out NAME.py    a row as a config, for tools/train.py

A study file lists rows, each with a config and its changes (configs/nuclei/*.yaml,
tools/lab/studies/study_file.py). After an interruption, run the same command again to continue;
a folder of a study with other settings is refused.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from mmengine.config import DictAction

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="STUDY")
    for name, described in (
        ("refinement", "one frozen detector: energy heads, L1 heads, priors, and no head at all"),
        ("objectives", "one frozen detector: heads trained by several recipes"),
        ("detectors", "several detectors, and several ways to test one of them"),
    ):
        command = commands.add_parser(name, help=described, description=described)
        command.add_argument(
            "study", type=Path, help="study file, or a config for a study of one row"
        )
        command.add_argument("--out", type=Path, required=True, help="folder of this study")
        command.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="some rows")
        command.add_argument("--seeds", type=int, nargs="+", metavar="N")
        command.add_argument("--rounds", type=int, help="cached versions per training image")
        command.add_argument("--boxes", type=int, help="boxes per training step of a head")
        if name != "detectors":
            command.add_argument("--prior-k", type=float, help="weight of f against the prior")
        command.add_argument("--resamples", type=int, help="resamples of the bootstrap")
        if name == "detectors":
            command.add_argument(
                "--jobs",
                type=int,
                default=1,
                help="trainings at a time, on one core each (default: %(default)s)",
            )
        if name == "refinement":
            command.add_argument("--no-rivals", action="store_true", help="without L1 heads")
        command.add_argument(
            "--page",
            type=Path,
            nargs="?",
            const=ROOT / "docs" / "results.md",
            metavar="FILE",
            help="also write the table into a page (default: docs/results.md)",
        )
        command.add_argument("--section", help="name of the markers on that page")
        command.add_argument(
            "--data-root", type=Path, metavar="DIR", help="instead of the data_root of the configs"
        )
        _add_options(command)
    jittered = commands.add_parser("jittered", help="moved true boxes of an EBM3DDetector")
    jittered.add_argument("config", help="config of an EBM3DDetector")
    jittered.add_argument("checkpoints", nargs="+", help="one checkpoint per seed")
    jittered.add_argument("--copies", type=int, default=100, help="per box (default: %(default)s)")
    jittered.add_argument("--seed", type=int, default=0, help="of the moves (default: %(default)s)")
    jittered.add_argument("--out", type=Path, help="JSON file for the numbers; must not exist")
    _add_options(jittered)
    intervals = commands.add_parser("intervals", help="coverage and width over random halves")
    intervals.add_argument("config", help="config of a detector; its test data is used")
    intervals.add_argument("checkpoint", help="its checkpoint")
    intervals.add_argument("--level", type=float, default=0.9, help="default: %(default)s")
    intervals.add_argument("--splits", type=int, default=100, help="default: %(default)s")
    intervals.add_argument("--seed", type=int, default=0, help="of the halves")
    intervals.add_argument("--shapes", type=int, metavar="N", help="N generated images instead")
    intervals.add_argument("--out", type=Path, help="JSON file for the numbers; must not exist")
    intervals.add_argument(
        "--heads",
        type=Path,
        metavar="DIR",
        help="also an energy head, a KL-Loss head and a learned proposal on this detector, which "
        "learn in this folder from --train-ann",
    )
    intervals.add_argument("--train-ann", type=Path, help="COCO file for --heads")
    intervals.add_argument("--images", type=Path, help="folder of its images; default: config's")
    intervals.add_argument("--iterations", type=int, default=600, help="of --heads")
    _add_options(intervals)
    regression = commands.add_parser("regression", help="methods of image regression, by task")
    regression.add_argument("--out", type=Path, required=True, help="folder of this study")
    regression.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="default: the generated ones"
    )
    regression.add_argument("--methods", nargs="+", metavar="METHOD", help="default: all")
    regression.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    regression.add_argument(
        "--jobs",
        type=int,
        default=2,
        help="runs at a time, on one core each (default: %(default)s)",
    )
    regression.add_argument(
        "--page",
        type=Path,
        nargs="?",
        const=ROOT / "docs" / "regression.md",
        metavar="FILE",
        help="also write the tables into a page (default: docs/regression.md)",
    )
    regression.add_argument(
        "--records",
        type=Path,
        metavar="FILE",
        help="values of runs that were measured before and are not repeated; new ones are added",
    )
    regression.add_argument(
        "--report", action="store_true", help="run nothing: tables of what is finished"
    )
    _add_options(regression)
    _add_audit(commands)
    config = commands.add_parser("config", help="write a row of a study file as a config")
    config.add_argument("study", type=Path, help="study file")
    config.add_argument("row", help="name of the row")
    config.add_argument("--out", type=Path, required=True, help="config to write; must not exist")
    _add_options(config)
    args = parser.parse_args(argv)
    if getattr(args, "jobs", 1) < 1:
        parser.error(f"--jobs {args.jobs}: must be at least 1")
    page, section = getattr(args, "page", None), getattr(args, "section", None)
    if args.command != "regression" and bool(page) != bool(section):
        parser.error("--page and --section must be given together")
    if args.command == "intervals" and bool(args.heads) != bool(args.train_ann):
        parser.error("--heads and --train-ann must be given together")
    if args.command in ("jittered", "intervals", "config") and args.out and args.out.exists():
        parser.error(f"--out {args.out} exists; name a new file, or move that one away")
    return args


def _add_audit(commands) -> None:
    audit = commands.add_parser("audit", help="errors planted into annotations, and who finds them")
    audit.add_argument("config", type=Path, help="config of a detector")
    audit.add_argument("checkpoint", type=Path, help="its checkpoint")
    audit.add_argument("--ann", type=Path, required=True, help="true annotations, to be spoiled")
    audit.add_argument(
        "--train-ann", type=Path, required=True, help="annotations that other heads learn from"
    )
    audit.add_argument("--out", type=Path, required=True, help="folder of this study")
    audit.add_argument("--images", type=Path, help="folder of the images; default: the config's")
    audit.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    audit.add_argument(
        "--kinds", nargs="+", default=["shift", "scale", "side", "merged"], metavar="KIND"
    )
    audit.add_argument(
        "--modes", nargs="+", default=["unseen", "folds", "in-sample"], metavar="MODE"
    )
    audit.add_argument("--iterations", type=int, default=1500, help="of each head")
    audit.add_argument("--folds", type=int, default=5)
    audit.add_argument("--cache-gb", type=float, default=2.0, help="memory for features")
    audit.add_argument("--cleanlab", metavar="PYTHON", help="a Python that has cleanlab")


def _add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="change settings of every config, after those of its row",
    )


def main(argv: list[str] | None = None) -> object:
    """Run a study; report errors that the user can fix in one line.

    Returns:
        The results of the study; see `lab.studies`.
    """
    args = parse_args(argv)
    from mmdet.utils import register_all_modules

    import ebm_mmdet  # noqa: F401  (registers our types)
    from ebm_mmdet.datasets import AnnotationError
    from ebm_mmdet.engine import CheckpointError
    from lab.studies.study_file import StudyFileError

    register_all_modules()
    try:
        if args.command == "jittered":
            from lab.studies.jittered_boxes import measure_checkpoints

            return measure_checkpoints(
                args.config, args.checkpoints, args.cfg_options, args.copies, args.seed, args.out
            )
        if args.command == "intervals":
            return _intervals(args)
        if args.command == "regression":
            return _regression(args)
        if args.command == "audit":
            return _audit(args)
        return _config(args) if args.command == "config" else _compare(args)
    except (StudyFileError, AnnotationError, CheckpointError, FileExistsError) as error:
        sys.exit(f"study {args.command}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"study {args.command}: interrupted; the same command goes on from here")


def _config(args: argparse.Namespace) -> None:
    from ebm_mmdet.files import write_text
    from lab.studies.study_file import read_study

    cfg = read_study(args.study, [args.row], args.cfg_options).cfgs[args.row]
    write_text(args.out, cfg.pretty_text)


def _intervals(args: argparse.Namespace) -> list[dict]:
    from lab.studies.interval_rivals import Rivals
    from lab.studies.intervals import measure_intervals

    rivals = None
    if args.heads:
        rivals = Rivals(args.heads, args.train_ann, args.images, args.iterations, args.seed)
    return measure_intervals(
        args.config,
        args.checkpoint,
        args.level,
        args.splits,
        args.seed,
        args.shapes,
        args.out,
        args.cfg_options,
        rivals,
    )


def _audit(args: argparse.Namespace) -> dict:
    from lab.studies.audit_study import run_audit_study
    from lab.studies.audit_table import audit_page

    report = run_audit_study(
        args.config,
        args.checkpoint,
        args.train_ann,
        args.ann,
        args.out,
        args.images,
        args.seeds,
        args.kinds,
        args.modes,
        iterations=args.iterations,
        folds=args.folds,
        cache_gb=args.cache_gb,
        cleanlab=args.cleanlab,
    )
    print(audit_page(report))
    return report


def _regression(args: argparse.Namespace) -> list[dict]:
    from lab.regression.methods import GENERATED, METHODS
    from lab.regression.study import run_study

    return run_study(
        args.tasks or list(GENERATED),
        args.methods or list(METHODS),
        args.seeds,
        args.out,
        changes=args.cfg_options,
        jobs=args.jobs,
        page=args.page,
        report_only=args.report,
        records=args.records,
    )


def _compare(args: argparse.Namespace) -> dict:
    from ebm_mmdet.files import fill_section
    from lab.studies.commands import compare

    command = shlex.join(["python", "tools/study.py", *sys.argv[1:]])
    given = {
        name: getattr(args, name, None)
        for name in ("seeds", "rounds", "boxes", "prior_k", "resamples")
    }
    report, text = compare(
        args.command,
        args.study,
        args.out,
        rows=args.rows,
        cfg_options=args.cfg_options,
        data_root=args.data_root,
        rivals=not getattr(args, "no_rivals", False),
        jobs=getattr(args, "jobs", 1),
        **{name: value for name, value in given.items() if value is not None},
    )
    print(text)
    if args.page:
        fill_section(args.page, args.section, f"`{command}`\n\n{text}")
    return report


if __name__ == "__main__":
    main()
