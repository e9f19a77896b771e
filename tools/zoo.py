#!/usr/bin/env python
"""One config of each family of mmdet's model zoo, with an energy head: does it train, predict, and keep what it must?

    tools/zoo.py --out work_dirs/zoo                       # all families, some 15 s each on one core
    tools/zoo.py --out work_dirs/zoo --families yolox ssd  # some
    tools/zoo.py --out work_dirs/zoo --page                # the table, into docs/zoo.md

Each family is one process with a limit on time and memory. Its result is a file in --out, so that the same command goes on
where it was interrupted. --records takes results from one file and adds new ones, so that the table can be continued on
another machine.
"""  # noqa: E501

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from mmdet.utils import register_all_modules

import ebm_mmdet  # noqa: F401  (registers our types)
from ebm_mmdet.files import fill_section
from lab.zoo.records import add_records, read_records, summary, table
from lab.zoo.sweep import families, sweep
from lab.zoo.trial import ZOO

PAGE = Path(__file__).resolve().parents[1] / "docs" / "zoo.md"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the sweep and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--families", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--minutes", type=float, default=3.0, help="time for each; default: 3")
    parser.add_argument("--gb", type=float, default=8.0, help="memory for each; default: 8")
    parser.add_argument(
        "--records",
        type=Path,
        metavar="FILE",
        help="results from before, here or elsewhere, which are not repeated; new ones are added",
    )
    parser.add_argument(
        "--page", type=Path, nargs="?", const=PAGE, metavar="FILE", help="default: docs/zoo.md"
    )
    parser.add_argument("--report", action="store_true", help="run nothing: what is finished")
    args = parser.parse_args(argv)
    known = families()
    unknown = sorted({*(args.families or ())} - known.keys())
    if unknown:
        parser.error(f"--families {unknown[0]}: not in {ZOO}; it has {', '.join(known)}")
    try:
        records = read_records(args.records, known)
    except ValueError as error:
        parser.error(f"--records {error}")
    recorded = {each["family"] for each in records}
    chosen = [name for name in args.families or known if name not in recorded]
    register_all_modules()
    torch.set_num_threads(1)
    if args.report:
        chosen = [name for name in chosen if (args.out / f"{name}.json").exists()]
    results = []
    try:
        for result in sweep(chosen, args.out, args.minutes, args.gb):
            results.append(result)
            if args.records is not None:
                add_records(args.records, records, results)
    except KeyboardInterrupt:
        sys.exit("zoo: interrupted; the same command goes on from here")
    results = sorted([*records, *results], key=lambda each: each["family"])
    text = f"{summary(results, known)}\n\n{table(results)}"
    print(text)
    if args.page:
        fill_section(args.page, "zoo", text)


if __name__ == "__main__":
    main()
