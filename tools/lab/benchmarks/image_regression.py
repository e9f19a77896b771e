"""Time of image regression: a training step, split fusion, and predictions.

    python tools/lab/benchmarks/image_regression.py [--threads 2] [--repeats 10]

At the published size: h of 512, y layers 16-32-64-128, fusion 512, batches of 32 images, M = 1024
samples besides the target. The trunk is not part of it: features are given. Candidates run in turns
and the fastest of each counts, so that other load on the machine affects them equally.

- training step: loss and gradients of everything but the trunk, against its matrix products alone,
  forward and backward, written to memory that exists (the floor). It also pays for drawing the
  samples, for activations and for logarithms;
- the same by autograd: the split network without the blocked operation, and the published form,
  which concatenates h with the features of each point;
- prediction of 1,000 images with 1,024 samples each, as the test loop does it: mean, median or
  mode, intervals, 256 samples and likelihood.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _timing import read_options
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ebm_mmdet.apis.timing import take_turns
from ebm_mmdet.energy import NCEObjective
from ebm_mmdet.regression import EBMRegressionHead, PredictionSettings, RegressionDataSample

FEATURES, BATCH, SAMPLES, IMAGES = 512, 32, 1024, 1000


def make_head(proposal: bool, dim: int = 1) -> EBMRegressionHead:
    """The published head, with fixed noise or with a mixture of four as proposal."""
    ranges = [(-100.0, 100.0)] * dim
    settings = {"num_components": 4} if proposal else None
    return EBMRegressionHead(FEATURES, {"ranges": ranges}, proposal=settings)


def labels(n: int, dim: int = 1) -> list[RegressionDataSample]:
    """Samples of n images with labels."""
    samples = [RegressionDataSample() for _ in range(n)]
    for sample in samples:
        sample.set_gt_target(100 * (2 * torch.rand(dim) - 1))
    return samples


def training_step(head: EBMRegressionHead) -> Callable[[object], None]:
    """Losses and gradients of a batch."""
    h, samples = torch.randn(BATCH, FEATURES, requires_grad=True), labels(BATCH)

    def run(_: object) -> None:
        head.zero_grad()
        h.grad = None
        head.loss(h, samples)["loss_energy"].backward()

    return run


def naive_step(head: EBMRegressionHead, concatenated: bool) -> Callable[[object], None]:
    """The same with fixed noise, by autograd: split, or with the concatenation."""
    h, samples = torch.randn(BATCH, FEATURES, requires_grad=True), labels(BATCH)
    network = head.energy
    objective: NCEObjective = head.objective

    def run(_: object) -> None:
        head.zero_grad()
        h.grad = None
        if concatenated:
            objective(lambda z: network.concatenated(h, z), head.encoded_targets(samples))[
                "loss"
            ].backward()
        else:
            part = network.image_part(h)
            objective(lambda z: network.plain(part, z), head.encoded_targets(samples))[
                "loss"
            ].backward()

    return run


def products(head: EBMRegressionHead) -> Callable[[object], None]:
    """The floor: x Wᵀ, gᵀ x and g W of each layer, for all points of a step."""
    rows, network = BATCH * (SAMPLES + 1), head.energy
    weights = [layer.weight.detach() for layer in network.y_layers]
    weights += [network.fusion.weight.detach()[:, FEATURES:], network.out.weight.detach()]
    layers: list[tuple[Tensor, ...]] = []
    for weight in weights:
        out, width = weight.shape
        layers.append((weight, torch.randn(rows, width), torch.randn(rows, out)))
    results = [tuple(torch.empty_like(t) for t in layer) for layer in layers]

    def run(_: object) -> None:
        for index, ((weight, x, g), (dw, dx, y)) in enumerate(zip(layers, results)):
            torch.mm(x, weight.T, out=y)
            torch.mm(g.T, x, out=dw)
            if index:  # nothing is differentiated with respect to the points
                torch.mm(g, weight, out=dx)

    return run


def prediction(head: EBMRegressionHead, point: str, dim: int) -> Callable[[object], None]:
    """Predictions of all images, in batches of 100."""
    settings = PredictionSettings(point=point, num_samples=SAMPLES)
    batches = [(torch.randn(100, FEATURES), labels(100, dim)) for _ in range(IMAGES // 100)]

    def run(_: object) -> None:
        for h, samples in batches:
            head.predict(h, samples, settings)

    return run


def report(title: str, rows: dict[str, Callable], repeats: int, floor: str | None) -> Table:
    """Time the rows in turns, and make a table of their minima."""
    take_turns(list(rows.values()), [None])  # warm up
    seconds = dict(zip(rows, take_turns(list(rows.values()), [None] * repeats).min(1)))
    table = Table(title=title)
    table.add_column("what")
    table.add_column("ms", justify="right")
    if floor is not None:
        table.add_column("x floor", justify="right")
    for name, value in seconds.items():
        ratio = () if floor is None else (f"{value / seconds[floor]:.2f}",)
        table.add_row(name, f"{1e3 * value:.0f}", *ratio)
    return table


def main() -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args = read_options(parser, threads=2, repeats=10)
    console = Console()

    fixed, learned = make_head(proposal=False), make_head(proposal=True)
    floor = "matrix products alone"
    steps = {
        floor: products(fixed),
        "fixed noise": training_step(fixed),
        "learned proposal": training_step(learned),
        "fixed noise, split, by autograd": naive_step(fixed, concatenated=False),
        "fixed noise, concatenated as published": naive_step(fixed, concatenated=True),
    }
    title = f"A training step: {BATCH} images, M = {SAMPLES}, {args.threads} threads"
    console.print(report(title, steps, args.repeats, floor))
    console.print("target: at most 1.3 times the matrix products")

    predictions = {
        f"{dim} coordinate{'s' * (dim > 1)}, {name}": prediction(head, point, dim)
        for dim in (1, 3)
        for name, head, point in (
            ("learned proposal, mean", make_head(True, dim), "mean"),
            ("learned proposal, mode", make_head(True, dim), "mode"),
            (f"fixed noise, {'grid' if dim == 1 else 'adaptive'}", make_head(False, dim), "mean"),
        )
    }
    title = f"Prediction of {IMAGES} images, {SAMPLES} samples each, {args.threads} threads"
    console.print(report(title, predictions, max(1, args.repeats // 5), None))


if __name__ == "__main__":
    main()
