r"""Are the Triton kernels right, and how fast is refinement with them? For a machine with a GPU.

    python tools/lab/benchmarks/gpu.py [--budget 440] [--only pooling rotated climb recorded times]
    python tools/lab/benchmarks/gpu.py --interpret

Every kernel is compared with the float64 reference on the CPU, and the climb that is one CUDA graph
with the loop of `gradient_ascent`, on the papers' head and the maps of `refinement.py`; so is the
graph with the operations of the loop, in 2D and in 3D. Then the loop, the same climb launch by
launch, and the graph are timed. Errors of kernels are relative to the largest number, those of
climbs in encoded coordinates.

The exit status is 1 if anything differs by more than it may, or fails. What would begin after
`--budget` seconds is left out, and said to be. `--interpret` does the same with tiny inputs in
Triton's interpreter, without a GPU and without times: it tries this script.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from _gpu_kernels import Check, Setting, check_pooling, check_rotated, error_of, largest, same
from _gpu_recorded import recorded_climbs, recorder
from refinement import STEP, make_head, make_input
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ebm_mmdet.energy import gradient_ascent
from ebm_mmdet.energy.steps import Steps
from ebm_mmdet.models import EBMBBoxHead
from ebm_mmdet.models.fused_climb.climb import climb_inputs
from ebm_mmdet.models.fused_climb.graphs import BUCKETS, Graphs, record
from ebm_mmdet.models.fused_climb.products import products_in
from ebm_mmdet.models.heads import BoxLogDensity

GAINS = {"fp32": 0.995, "tf32": 0.98, "bf16x2": 0.98}
"""Precision -> least gain of f, evaluated exactly, as a share of the loop's."""
COUNTS = (16, 100, 512)


class Time(NamedTuple):
    """Milliseconds until the device has finished, and until the host has queued the work."""

    name: str
    device: float
    host: float


def make_function(setting: Setting, count: int) -> BoxLogDensity:
    """The log-density of `count` boxes."""
    torch.manual_seed(0)
    if setting.tiny:
        noise = dict(type="GaussianMixtureNoise", sigmas=[0.1], dim=4)
        head = EBMBBoxHead(
            num_classes=3,
            objective=dict(type="NCEObjective", noise=noise),
            in_channels=2,
            strides=(8, 16),
            finest_scale=8,
            pool_size=1,
            fc_channels=(6, 5),
        )
        torch.nn.init.normal_(head.fc_energy.weight, std=2)
        maps = [torch.randn(1, 2, 6 // k, 8 // k) for k in (1, 2)]
        corner = 20 * torch.rand(count, 2)
        boxes = torch.cat([corner, corner + 10 + 8 * torch.rand(count, 2)], 1)
        labels = torch.arange(count) % 3
    else:
        head = make_head()
        maps, boxes, labels = make_input(count)
    head = head.to(setting.device).eval()
    feats = head.prepare([x.to(setting.device) for x in maps])
    labels = labels.to(setting.device)
    return head.log_density_fn(feats, boxes.to(setting.device), torch.zeros_like(labels), labels)


def launch_by_launch(plan) -> Callable[[], None]:
    """What runs a plan without a graph."""

    def run() -> None:
        with products_in(plan.recipe.precision):
            plan.run()

    return run


def climber(fn: BoxLogDensity, steps: int, precision: str, make: Callable) -> Callable:
    """The climb of all boxes by a plan, which `make` repeats: a function that returns its result.

    That is y (N, 4), f (N,) and the accepted steps (N,).
    """
    from ebm_mmdet.models.fused_climb.plan import Recipe  # when it is known whether to interpret

    y0, graphs = torch.zeros_like(fn.reference), Graphs(make)
    # Fewer than the smallest bucket are not filled up: it would take the interpreter minutes.
    rows = len(y0) if len(y0) < BUCKETS[0] else next(n for n in BUCKETS if n >= len(y0))
    recipe = Recipe(rows, steps, 0.5, False, 0.0, 1.0, precision)

    def run() -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            inputs = climb_inputs(fn, None, y0, Steps(STEP, y0.unsqueeze(1), 0.5).size)
            found = graphs.climb(fn.head, recipe, fn.feats, inputs)
        if found is None:
            raise RuntimeError(graphs.failure)
        return found

    return run


def check_climb(setting: Setting) -> Iterator[Check]:
    """A climb by a plan beside the loop, and by its graph beside the plan."""
    steps = 1 if setting.tiny else 10
    for count in (2,) if setting.tiny else COUNTS:
        fn = make_function(setting, count)
        y0 = torch.zeros_like(fn.reference)
        loop = gradient_ascent(fn, y0, STEP, steps)
        for precision, least in GAINS.items():
            name = f"climb of {count}, {precision}"
            run = climber(fn, steps, precision, launch_by_launch)
            result = y, f, _ = run()
            with torch.no_grad():
                start, end = (fn(each.unsqueeze(1)).squeeze(1) for each in (y0, y))
            lost = 1 - float((end - start).mean() / (loop.log_density - start).mean())
            yield Check(f"{name}: share of the gain lost", lost, 1 - least, same(run(), result))
            if precision == "fp32":
                # A step that fails by less than rounding in one of both takes another way.
                apart = (y - loop.y).abs().amax(1).quantile(0.95)
                yield Check(f"{name}: 95 % of boxes", float(apart), 1e-5)
                yield Check(f"{name}: f", error_of(f, loop.log_density), 1e-4)
            if not setting.tiny:
                replay = climber(fn, steps, precision, record)
                apart = largest(map(error_of, replay()[:2], result))
                yield Check(f"{name}, graph: beside the launches", apart, 0, same(replay(), result))


def check_recorded(setting: Setting) -> Iterator[Check]:
    """What a graph with the operations of the loop records, and the graph, beside the loop."""
    steps = 2 if setting.tiny else 10
    for climb in recorded_climbs(setting):
        y0 = torch.zeros_like(climb.fn.reference)
        loop = gradient_ascent(climb.fn, y0, climb.step, steps)
        for what, make in (("launch by launch", launch_by_launch), ("graph", record)):
            if setting.tiny and make is record:
                continue
            run = recorder(climb, steps, make)
            result = y, f, _ = run()
            apart = (y - loop.y).abs().amax(1).quantile(0.95)
            name = f"recorded loop, {climb.name}, {what}"
            yield Check(f"{name}: 95 % of boxes", float(apart), 1e-5, same(run(), result))
            yield Check(f"{name}: f", error_of(f, loop.log_density), 1e-4)


def measure(setting: Setting) -> Iterator[Time]:
    """Times of climbs with T = 10."""
    for climb in () if setting.tiny else recorded_climbs(setting):
        y0 = torch.zeros_like(climb.fn.reference)
        loop = partial(gradient_ascent, climb.fn, y0, climb.step, 10)
        yield timed(f"100 boxes, {climb.name}: loop", loop)
        yield timed(f"100 boxes, {climb.name}: graph", recorder(climb, 10, record))
    for count in () if setting.tiny else COUNTS:
        fn = make_function(setting, count)
        y0 = torch.zeros_like(fn.reference)
        yield timed(f"{count} boxes: loop", partial(gradient_ascent, fn, y0, STEP, 10))
        for precision in GAINS:
            for what, make in (("launch by launch", launch_by_launch), ("graph", record)):
                run = climber(fn, 10, precision, make)
                yield timed(f"{count} boxes: {what}, {precision}", run)


def timed(name: str, run: Callable[[], object], rounds: int = 20) -> Time:
    """Medians of runs, each begun on an idle device; inputs and results are copied in each."""
    for _ in range(3):
        run()
    device, host = [], []
    for _ in range(rounds):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin = time.perf_counter()
        first.record()
        run()
        last.record()
        host.append(1e3 * (time.perf_counter() - begin))
        last.synchronize()
        device.append(first.elapsed_time(last))
    return Time(name, statistics.median(device), statistics.median(host))


SECTIONS: dict[str, Callable[[Setting], Iterator[Check | Time]]] = {
    "pooling": check_pooling,
    "rotated": check_rotated,
    "climb": check_climb,
    "recorded": check_recorded,
    "times": measure,
}


class Report:
    """The tables, and how many rows are wrong."""

    def __init__(self) -> None:
        self.checks, self.times, self.wrong = Table(title="Checks"), Table(title="Times"), 0
        for heading in ("what", "error", "allowed", "same bits", ""):
            self.checks.add_column(heading, overflow="fold")
        for heading in ("what", "ms", "host ms"):
            self.times.add_column(heading)

    def add(self, result: Check | Time) -> None:
        """Add a row."""
        if isinstance(result, Time):
            self.times.add_row(result.name, f"{result.device:.3f}", f"{result.host:.3f}")
            return
        right = result.same_bits and result.error <= result.allowed  # False for NaN
        self.wrong += not right
        numbers = f"{result.error:.1e}", f"{result.allowed:.0e}"
        bits = "yes" if result.same_bits else "NO"
        self.checks.add_row(result.name, *numbers, bits, "ok" if right else "WRONG")

    def run(self, section: str, setting: Setting, end: float) -> None:
        """Add the rows of a section, until time is up."""
        results = SECTIONS[section](setting)
        while time.monotonic() < end:
            try:
                self.add(next(results))
            except StopIteration:
                return
            except Exception as error:  # the other sections are of use all the same
                self.wrong += 1
                self.checks.add_row(section, f"{type(error).__name__}: {error}", "", "", "WRONG")
                return
        self.checks.add_row(f"the rest of {section}", "", "", "", "left out")


def main(argv: Sequence[str] | None = None) -> int:
    """Check and time; print a table of each, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--budget", type=float, default=440, help="seconds")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--interpret", action="store_true", help="tiny, without a GPU")
    args = parser.parse_args(argv)
    if args.interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported
    elif not torch.cuda.is_available():
        parser.error("no GPU is visible; --interpret tries this script without one")
    setting = Setting(torch.device("cpu" if args.interpret else "cuda"), args.interpret)
    torch.manual_seed(0)
    begin, report = time.monotonic(), Report()
    for section in args.only:
        report.run(section, setting, begin + args.budget)
    console = Console()
    console.print(report.checks)
    if report.times.row_count:
        console.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, T = 10")
        console.print(report.times)
    seconds = time.monotonic() - begin
    console.print(f"{report.wrong} wrong of {report.checks.row_count}, {seconds:.0f} s")
    return int(report.wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
