r"""Time of variance voting and of the NMS before it: 1,000 boxes x 80 classes on a CPU.

    python tools/lab/benchmarks/variance_voting.py \
        [--threads 1] [--boxes 1000] [--classes 80] [--repeats 5]

Boxes form clusters around 30 objects, like the proposals of an image. There are two sets of scores:

- all: every box is a candidate for every class, 80,000 candidates, which is the worst case;
- typical: softmax scores of a detector that favours one class or two, threshold 0.05.

Both functions get the same candidates; the vote moves the 100 boxes that NMS keeps. Times are
minima over the repeats.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from _timing import best_time, read_options
from mmcv.ops import batched_nms
from rich.console import Console
from rich.table import Table

from ebm_mmdet.models import variance_vote

NMS = {
    "NMS": dict(type="nms", iou_threshold=0.5),
    "soft-NMS": dict(type="soft_nms", method="gaussian", sigma=0.5, min_score=1e-3),
}
KEPT = 100


def make_candidates(boxes: int, classes: int, everything: bool) -> tuple[torch.Tensor, ...]:
    """Boxes (N, 4), scores (N,), labels (N,) and log-variances (N, 4) above the threshold."""
    corner = torch.rand(30, 2) * torch.tensor([1100.0, 700.0])
    objects = torch.cat((corner, corner + 30 + 200 * torch.rand(30, 2)), 1)
    which = torch.randint(30, (boxes,))
    size = (objects[which, 2:] - objects[which, :2]).repeat(1, 2)
    proposals = objects[which] + 0.08 * size * torch.randn(boxes, 4)
    # Each class moves its box by its own deltas.
    moved = proposals[:, None] + 0.03 * size[:, None] * torch.randn(boxes, classes, 4)
    if everything:
        scores = 0.05 + 0.95 * torch.rand(boxes, classes)
    else:
        favourite = torch.nn.functional.one_hot(which % classes, classes)
        scores = (2 * torch.randn(boxes, classes) + 6 * favourite).softmax(1)
    row, label = torch.nonzero(scores > 0.05, as_tuple=True)
    return moved[row, label], scores[row, label], label, torch.randn(len(row), 4)


def main() -> None:
    """Time both and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args = read_options(parser, threads=1, boxes=1000, classes=80, repeats=5)

    table = Table(title=f"{args.boxes} boxes x {args.classes} classes, {args.threads} thread(s)")
    for name in ("scores", "candidates", "suppression", "ms", "voting, ms", "voting / suppression"):
        table.add_column(name, justify="left" if name in ("scores", "suppression") else "right")
    for everything in (True, False):
        boxes, scores, labels, log_variance = make_candidates(args.boxes, args.classes, everything)
        for name, config in NMS.items():
            keep = batched_nms(boxes, scores, labels, config)[1][:KEPT]
            nms = best_time(partial(batched_nms, boxes, scores, labels, config), args.repeats)
            vote = best_time(
                partial(variance_vote, boxes, log_variance, labels, keep), args.repeats
            )
            table.add_row(
                "all" if everything else "typical",
                f"{len(boxes)}",
                name,
                f"{1e3 * nms:.1f}",
                f"{1e3 * vote:.1f}",
                f"{vote / nms:.2f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
