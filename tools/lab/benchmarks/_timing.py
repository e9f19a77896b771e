"""What the benchmarks share: their command line, timing, and a lower bound."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch


def read_options(parser: argparse.ArgumentParser, **numbers: int) -> argparse.Namespace:
    """Read the command line, give torch ``args.threads`` threads, and set its seed.

    Args:
        parser: with the options that are no numbers.
        numbers: defaults of the others, ``threads`` and ``repeats`` among them.
    """
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return args


def best_time(run: Callable[[], object], repeats: int) -> float:
    """Duration of the fastest of several runs in seconds, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def linear_layers(weights: Sequence[torch.Tensor], rows: int, steps: int) -> None:
    """Lower bound of refinement: T + 1 forwards of these layers, T backwards to their input.

    Args:
        weights: weight (out, in) of each layer.
        rows: number of boxes.
        steps: number of steps T.
    """
    x = torch.randn(rows, weights[0].shape[1])
    for step in range(steps + 1):
        x.requires_grad_(step < steps)
        y = x
        for weight in weights:
            y = torch.nn.functional.linear(y, weight)
        if step < steps:
            torch.autograd.grad(y.sum(), x)
        x = x.detach()
