"""The command line of `tools/study.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import DictAction

from .command_line import add_page

RIVALS = ("l1", "kl")
"""Kinds of heads that a study of refinement compares an energy head with."""

__all__ = ["RIVALS", "parse_args"]


def parse_args(argv: list[str] | None = None, description: str = "") -> argparse.Namespace:
    """Read the command line of `tools/study.py`, and check what a parser alone does not."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="STUDY")
    _add_comparisons(commands)
    _add_jittered(commands)
    _add_intervals(commands)
    _add_conventions(commands)
    _add_regression(commands)
    _add_audit(commands)
    _add_config(commands)
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


def _add_comparisons(commands) -> None:
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
            command.add_argument(
                "--methods",
                nargs="+",
                metavar="TEXT",
                help="rows whose names contain one of these, besides the first (default: all); "
                "more can follow later, in the same folder",
            )
            rivals = command.add_mutually_exclusive_group()
            rivals.add_argument(
                "--rivals",
                nargs="+",
                choices=RIVALS,
                default=list(RIVALS),
                help="heads to compare with, on the same features (default: all)",
            )
            rivals.add_argument("--no-rivals", action="store_true", help="without any of them")
        add_page(command, "results.md", "also write the table into a page")
        command.add_argument("--section", help="name of the markers on that page")
        command.add_argument(
            "--data-root", type=Path, metavar="DIR", help="instead of the data_root of the configs"
        )
        _add_options(command)


def _add_jittered(commands) -> None:
    jittered = commands.add_parser("jittered", help="moved true boxes of an EBM3DDetector")
    jittered.add_argument("config", help="config of an EBM3DDetector")
    jittered.add_argument("checkpoints", nargs="+", help="one checkpoint per seed")
    jittered.add_argument("--copies", type=int, default=100, help="per box (default: %(default)s)")
    jittered.add_argument("--seed", type=int, default=0, help="of the moves (default: %(default)s)")
    jittered.add_argument("--out", type=Path, help="JSON file for the numbers; must not exist")
    _add_options(jittered)


def _add_intervals(commands) -> None:
    intervals = commands.add_parser("intervals", help="coverage and width over random halves")
    intervals.add_argument("config", help="config of a detector, 2D or 3D; its test data is used")
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
    intervals.add_argument(
        "--undirected", action="store_true", help="in 3D: front and back of a box are the same"
    )
    _add_options(intervals)


def _add_conventions(commands) -> None:
    conventions = commands.add_parser("conventions", help="objects with two right boxes")
    conventions.add_argument("detector", type=Path, help="config of a detector, which is trained")
    conventions.add_argument("config", type=Path, help="config of an EBMDetector on it")
    conventions.add_argument("--out", type=Path, required=True, help="folder of this study")
    conventions.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    conventions.add_argument("--boxes", type=int, default=16, help="boxes per training step")
    conventions.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    add_page(conventions, "results.md", "also write the table into a page")
    conventions.add_argument("--section", help="name of the markers on that page")
    _add_options(conventions)


def _add_regression(commands) -> None:
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
    add_page(regression, "regression.md", "also write the tables into a page")
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
    audit.add_argument(
        "--no-rivals", action="store_true", help="no heads with L1 and KL-Loss: a third of the time"
    )


def _add_config(commands) -> None:
    config = commands.add_parser("config", help="write a row of a study file as a config")
    config.add_argument("study", type=Path, help="study file")
    config.add_argument("row", help="name of the row")
    config.add_argument("--out", type=Path, required=True, help="config to write; must not exist")
    _add_options(config)


def _add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="change settings of every config, after those of its row",
    )
