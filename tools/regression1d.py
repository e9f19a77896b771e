#!/usr/bin/env python
"""Train energy-based models of p(y | x) on one-dimensional data, and measure them.

    tools/regression1d.py                         all seven methods, small: some minutes on 2 cores
    tools/regression1d.py --paper                 the four importance and NCE methods as published
    tools/regression1d.py --paper --samples 1 4 16 64 256 1024
    tools/regression1d.py --paper --method sm dsm ml-mcmc-16
    tools/regression1d.py --paper --method proposals --dataset 1 umal

Methods: ml-is, kld-is, nce, nceplus, sm, dsm, ml-mcmc-L with L Langevin steps; nce-mdn-K and
ml-is-mdn-K with a learned proposal of K parts; mdn-K and mdn-teacher-K, mixture density networks
without and with an energy-based teacher. `all` means the first seven, `proposals` the second
study. After an interruption, run the same command again to continue. Finished runs are kept and
never repeated; tables and figures show everything in the output folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lab.command_line import add_page, run_command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", action="store_true", help="5 models, 12 epochs, M = 256 (the default)"
    )
    size.add_argument("--paper", action="store_true", help="20 models, 75 epochs, M = 1024")
    parser.add_argument(
        "--method",
        nargs="+",
        metavar="M",
        help="names, `all` or `proposals`; default: all, with --paper ml-is kld-is nce nceplus",
    )
    parser.add_argument(
        "--config", nargs="+", type=Path, default=[], metavar="FILE", help="methods of your own"
    )
    parser.add_argument("--dataset", nargs="+", choices=["1", "2", "umal"], default=["1", "2"])
    parser.add_argument(
        "--samples", nargs="+", type=int, metavar="M", help="samples per target, one or several"
    )
    parser.add_argument("--models", type=int, help="models per run")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one per core)")
    parser.add_argument(
        "--out", type=Path, help="output folder (default: work_dirs/regression1d/{quick,paper})"
    )
    add_page(parser, "regression1d.md", "also fill in the tables of a page")
    parser.add_argument(
        "--report", action="store_true", help="run nothing: tables and figures of what is finished"
    )
    args = parser.parse_args(argv)
    for name in ("samples", "models", "epochs", "jobs"):
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and value < 1:
                parser.error(f"--{name} {value}: must be at least 1")
    return args


def main(argv: list[str] | None = None) -> None:
    """Run the study; report errors that the user can fix in one line."""
    args = parse_args(argv)
    from lab.regression1d import StudyError, run_study

    def run() -> None:
        run_study(
            preset="paper" if args.paper else "quick",
            methods=args.method,
            configs=args.config,
            datasets=args.dataset,
            num_samples=args.samples,
            models=args.models,
            epochs=args.epochs,
            seed=args.seed,
            jobs=args.jobs,
            out=args.out,
            page=args.page,
            report_only=args.report,
        )

    run_command("regression1d", run, StudyError, ValueError)


if __name__ == "__main__":
    main()
