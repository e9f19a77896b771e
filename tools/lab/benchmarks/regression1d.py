"""Time of a training step of the 1D study, and of the whole study with `--paper`.

    python tools/lab/benchmarks/regression1d.py [--repeats 10]

One step trains 20 models, each with 32 targets and M = 1024 samples per target, on one thread:
sampling, forward, backward and Adam. Steps of all methods run in turns and the minimum of each
counts, so that other load on the machine affects them equally. "network" is the forward and
backward pass alone, fused (`kernel.cpp`) and in plain PyTorch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(
    0, str(Path(__file__).resolve().parents[2])
)  # tools/, which contains the package lab

from ebm_mmdet.apis.timing import take_turns
from lab.regression1d.data import load_dataset
from lab.regression1d.fused import kernel_is_available
from lab.regression1d.methods import SWEPT_METHODS, build_trainee, method_config
from lab.regression1d.network import EnergyEnsemble

MODELS, TARGETS, SAMPLES = 20, 32, 1024
STEPS = 75 * 63
OTHERS = (
    *("sm", "dsm", "ml-mcmc-16", "nce-mdn-1", "nce-mdn-4", "nce-mdn-16", "ml-is-mdn-4"),
    *("mdn-teacher-4", "mdn-1", "mdn-4", "mdn-16"),
)


def network_pass(plain: bool) -> Callable[[], None]:
    """Forward and backward of all scores of a step."""
    ensemble = EnergyEnsemble(range(MODELS))
    x = 6 * torch.rand(MODELS, TARGETS) - 3
    y = torch.randn(MODELS * TARGETS, 1 + SAMPLES, 1)

    def run() -> None:
        ensemble.zero_grad()
        ensemble.log_density_fn(x, twice_differentiable=plain)(y).sum().backward()

    return run


def training_step(method: str) -> Callable[[], None]:
    """A whole step of a method on data set 1."""
    dataset = load_dataset("1")
    trainee = build_trainee(method_config(method, "1", SAMPLES), dataset, range(MODELS), 0)
    optimizer = torch.optim.Adam(trainee.parameters(), lr=1e-3, foreach=True)
    noise, batch = torch.Generator(), torch.randint(len(dataset.x), (MODELS, TARGETS))

    def run() -> None:
        weight = torch.ones(batch.numel(), requires_grad=True)
        loss = trainee.loss(dataset.x[batch], dataset.y[batch], weight, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def main() -> None:
    """Measure, print milliseconds, and extrapolate to the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"fused kernel: {'yes' if kernel_is_available() else 'no'}")
    candidates = {"network, fused": network_pass(False), "network, plain": network_pass(True)}
    candidates |= {method: training_step(method) for method in (*SWEPT_METHODS, *OTHERS)}
    turns = [lambda _, run=run: run() for run in candidates.values()]
    # The first round warms up, and cannot be the minimum.
    seconds = take_turns(turns, range(args.repeats + 1)).min(axis=1)
    best = {name: 1e3 * value for name, value in zip(candidates, seconds)}
    for name, ms in best.items():
        print(f"{name:18}{ms:8.1f} ms")
    cores = os.cpu_count() or 1
    hours = 2 * STEPS * sum(best[method] for method in SWEPT_METHODS) / 3.6e6
    print(
        f"--paper: {STEPS} steps, {len(SWEPT_METHODS)} methods, 2 data sets: {60 * hours:.0f} "
        f"minutes of one core, {60 * hours / cores:.0f} minutes on {cores} cores"
    )


if __name__ == "__main__":
    main()
