r"""How the time of refinement grows with boxes, steps and images, and falls with threads.

    python tools/lab/benchmarks/scaling.py [--threads 1 2] [--repeats 3] [--out scaling.png]

The papers' head and the maps of `refinement.py`: 100 boxes of one image, T = 10, one thread; one of
the four is varied at a time. All cases of a panel run in turns, and the fastest of the repeats
counts. A line from the origin through the largest case says what growth in proportion would be;
what lies above it at small numbers is the cost per call.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from refinement import STEP, make_head, make_input
from rich.console import Console
from rich.table import Table

from ebm_mmdet.apis.timing import take_turns
from ebm_mmdet.energy import gradient_ascent
from ebm_mmdet.models import EBMBBoxHead
from ebm_mmdet.visualization.style import AFTER, GREY, INK, caption, new_figure, save_figure

BOXES, STEPS = 100, 10
CASES = {
    "boxes": (1, 25, 50, 100, 200, 400),
    "steps": (0, 5, 10, 20, 40),
    "images": (1, 2, 4),
}


class Case(NamedTuple):
    """What is refined, and how."""

    boxes: int = BOXES
    steps: int = STEPS
    images: int = 1
    threads: int = 1


def refinement(head: EBMBBoxHead, case: Case) -> Callable[[object], None]:
    """A function that refines the boxes of a case, in maps that are there."""
    torch.manual_seed(0)
    maps, boxes, labels = make_input(case.boxes)
    maps = [level.expand(case.images, -1, -1, -1) for level in maps]
    index = torch.arange(case.images).repeat_interleave(case.boxes)
    boxes, labels = boxes.repeat(case.images, 1), labels.repeat(case.images)
    feats = head.prepare(maps)
    fn = head.log_density_fn(feats, boxes, index, labels)

    def run(_: object) -> None:
        torch.set_num_threads(case.threads)
        gradient_ascent(fn, torch.zeros(len(boxes), 4), STEP, case.steps)

    return run


def measure(head: EBMBBoxHead, cases: list[Case], repeats: int) -> list[float]:
    """Milliseconds of each case; the first round, which warms up, does not count."""
    runs = [refinement(head, case) for case in cases]
    return [1e3 * float(times[1:].min()) for times in take_turns(runs, range(repeats + 1))]


def plot(found: dict[str, dict[int, float]], path: Path) -> None:
    """Draw a panel per quantity, with growth in proportion as a dashed line."""
    figure = new_figure(3.0 * len(found), 3.0)
    for axes, (name, times) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items()):
        numbers, values = list(times), list(times.values())
        if name == "threads":
            ideal = [values[0] * numbers[0] / n for n in numbers]
        else:
            ideal = [values[-1] * n / numbers[-1] for n in numbers]
        axes.plot(numbers, ideal, color=GREY, linestyle="--", linewidth=1)
        axes.plot(numbers, values, color=AFTER, marker="o", markersize=3.5, linewidth=1.6)
        axes.set_title(name, fontsize=11, color=INK)
        axes.set_xlabel(name)
        axes.set_ylim(0, 1.05 * max(values + ideal))
        axes.spines[["top", "right"]].set_visible(False)
        if name in ("threads", "images"):
            axes.set_xticks(numbers)
    figure.axes[0].set_ylabel("ms")
    caption(figure, "Time of refinement; dashed: in proportion")
    save_figure(figure, path)


def main() -> None:
    """Measure all cases, print them, and draw them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="picture to write; default: none")
    args = parser.parse_args()
    if args.out is not None and args.out.exists():
        parser.error(f"{args.out} exists; name a new file")

    head = make_head().eval()
    found = {}
    for name, numbers in {**CASES, "threads": args.threads}.items():
        cases = [Case(**{name: number}) for number in numbers]
        found[name] = dict(zip(numbers, measure(head, cases, args.repeats)))

    table = Table(title=f"ms; elsewhere {BOXES} boxes, T = {STEPS}, one image, one thread")
    for name in ("of", "number", "ms", "ms / number"):
        table.add_column(name, justify="left" if name == "of" else "right")
    for name, times in found.items():
        for number, value in times.items():
            each = f"{value / number:.2f}" if number else ""
            table.add_row(name, f"{number}", f"{value:.1f}", each)
    Console().print(table)
    if args.out is not None:
        plot(found, args.out)


if __name__ == "__main__":
    main()
