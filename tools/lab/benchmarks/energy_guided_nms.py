r"""Time of EnergyGuidedNMS, beside mmcv's NMS of the same boxes, on a CPU.

    python tools/lab/benchmarks/energy_guided_nms.py [--threads 1] [--repeats 15]

Candidates are either crowded around 30 objects, like those of an image, or spread over the image,
where nearly all survive. mmcv's ``batched_nms`` finds survivors only, EnergyGuidedNMS also to whom
each suppressed box belongs. Times are minima over the repeats.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from _timing import best_time, read_options
from mmcv.ops import batched_nms
from mmengine.structures import InstanceData
from rich.console import Console
from rich.table import Table

from ebm_mmdet.models import EnergyGuidedNMS

CASES = ((100, 1), (100, 80), (1000, 1), (1000, 80), (5000, 1))
"""Numbers of boxes and of classes."""


def make_candidates(boxes: int, classes: int, crowded: bool) -> InstanceData:
    """Boxes (n, 4) in an image of 1000 x 1000 pixels, with scores and labels."""
    corner = 1000 * torch.rand(30 if crowded else boxes, 2)
    objects = torch.cat((corner, corner + 20 + 100 * torch.rand(len(corner), 2)), 1)
    if crowded:
        objects = objects[torch.randint(30, (boxes,))]
        size = (objects[:, 2:] - objects[:, :2]).repeat(1, 2)
        objects = objects + 0.08 * size * torch.randn(boxes, 4)
    return InstanceData(
        bboxes=objects, scores=torch.rand(boxes), labels=torch.randint(classes, (boxes,))
    )


def main() -> None:
    """Time both for every case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args = read_options(parser, threads=1, repeats=15)

    table = Table(title=f"{args.threads} thread(s)")
    names = ("candidates", "boxes", "classes", "survivors", "EnergyGuidedNMS, ms", "mmcv, ms")
    for name in names:
        table.add_column(name, justify="left" if name == "candidates" else "right")
    select, config = EnergyGuidedNMS(max_per_img=10_000), dict(type="nms", iou_threshold=0.5)
    for crowded in (True, False):
        for boxes, classes in CASES:
            found, f = make_candidates(boxes, classes, crowded), torch.randn(boxes)
            ours, theirs = (
                1e3 * best_time(run, args.repeats)
                for run in (
                    partial(select, found, f),
                    partial(batched_nms, found.bboxes, f, found.labels, config),
                )
            )
            kind, survivors = "crowded" if crowded else "spread", len(select(found, f))
            table.add_row(
                kind, f"{boxes}", f"{classes}", f"{survivors}", f"{ours:.2f}", f"{theirs:.2f}"
            )
    Console().print(table)


if __name__ == "__main__":
    main()
