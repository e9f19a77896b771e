#!/usr/bin/env python
"""The studies behind docs/results.md: one command, one table, error bars.

    tools/study.py refinement CONFIG --out DIR            does refinement pay? Heads, rivals, priors
    tools/study.py objectives STUDY.yaml --out DIR        which objective trains the head best?
    tools/study.py detectors STUDY.yaml --out DIR         which detector, and which way to test it?
    tools/study.py jittered CONFIG CKPT [CKPT ...]        true 3D boxes, moved at random and refined
    tools/study.py intervals CONFIG CKPT                  do calibrated intervals hold? 2D and 3D
    tools/study.py conventions DETECTOR CONFIG --out DIR  objects that annotators box in two ways
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

from lab.command_line import run_command
from lab.study_arguments import RIVALS, parse_args


def main(argv: list[str] | None = None) -> object:
    """Run a study; report errors that the user can fix in one line.

    Returns:
        The results of the study; see `lab.studies`.
    """
    args = parse_args(argv, __doc__)
    from mmdet.utils import register_all_modules

    import ebm_mmdet  # noqa: F401  (registers our types)
    from ebm_mmdet.datasets import AnnotationError
    from ebm_mmdet.engine import CheckpointError
    from lab.studies.study_file import StudyFileError

    register_all_modules()
    return run_command(
        f"study {args.command}",
        lambda: _STUDIES.get(args.command, _compare)(args),
        StudyFileError,
        AnnotationError,
        CheckpointError,
        FileExistsError,
    )


def _jittered(args: argparse.Namespace) -> list[dict]:
    from lab.studies.jittered_boxes import measure_checkpoints

    return measure_checkpoints(
        args.config, args.checkpoints, args.cfg_options, args.copies, args.seed, args.out
    )


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
        undirected=args.undirected,
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
        rivals=not args.no_rivals,
    )
    print(audit_page(report))
    return report


def _conventions(args: argparse.Namespace) -> dict:
    from mmengine.config import Config

    from lab.studies.conventions import conventions_page, run_conventions_study
    from lab.studies.study import StudySettings
    from lab.studies.study_file import apply_options

    cfg = Config.fromfile(args.config)
    apply_options(cfg, args.cfg_options, "--cfg-options")
    settings = StudySettings(
        seeds=tuple(args.seeds),
        rounds=1,
        boxes_per_iteration=args.boxes,
        resamples=args.resamples,
    )
    report = run_conventions_study(Config.fromfile(args.detector), cfg, args.out, settings)
    _show(args, conventions_page(report))
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
    from lab.studies.commands import compare

    given = {
        name: getattr(args, name, None)
        for name in ("seeds", "rounds", "boxes", "prior_k", "methods", "resamples")
    }
    report, text = compare(
        args.command,
        args.study,
        args.out,
        rows=args.rows,
        cfg_options=args.cfg_options,
        data_root=args.data_root,
        rivals=() if getattr(args, "no_rivals", False) else getattr(args, "rivals", RIVALS),
        jobs=getattr(args, "jobs", 1),
        **{name: value for name, value in given.items() if value is not None},
    )
    _show(args, text)
    return report


def _show(args: argparse.Namespace, text: str) -> None:
    """Print a table, and write it with its command into the page that was asked for."""
    from ebm_mmdet.files import fill_section

    print(text)
    if args.page:
        command = shlex.join(["python", "tools/study.py", *sys.argv[1:]])
        fill_section(args.page, args.section, f"`{command}`\n\n{text}")


_STUDIES = {
    "audit": _audit,
    "config": _config,
    "conventions": _conventions,
    "intervals": _intervals,
    "jittered": _jittered,
    "regression": _regression,
}


if __name__ == "__main__":
    main()
