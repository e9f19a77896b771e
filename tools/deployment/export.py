"""Export the refinement of a model as one graph, which `torch.export.load` reads without mmdet.

    python tools/deployment/export.py CONFIG CHECKPOINT refinement.pt2 --image-size 800 1333

The graph has the steps of gradient ascent one after another, with their closed-form gradients. It
maps boxes (n, 4) in pixels of the network's input, their labels (n,) and images (n,), and the maps
of the detector to refined boxes (n, 4), before clipping, and f (n,). All shapes are fixed: fill up
with boxes of zeros, which change nothing for the others. Importing `ebm_ops` defines the two
operators of pooling that the graph needs.

Not exported: the detector itself, whose number of boxes depends on the values (mmdeploy exports
detectors); refiners that sample, or have a prior; and no ONNX file is written, because ONNX has no
operator for exact pooling.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ebm_mmdet.apis import load_detector
from ebm_mmdet.energy.host_reads import without_reads
from ebm_mmdet.files import open_atomic
from ebm_mmdet.models import EBMDetector, GradientAscentRefiner
from ebm_mmdet.models.heads import BoxLogDensity


class Refinement(nn.Module):
    """Boxes, labels, images and maps -> refined boxes and f, without a check of their values."""

    def __init__(self, model: EBMDetector) -> None:
        super().__init__()
        self.head, self.refiner = model.energy_head, model.refiner

    def forward(
        self, boxes: Tensor, labels: Tensor, images: Tensor, *maps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Shapes as in the description of this file."""
        fn = BoxLogDensity(self.head, self.head.prepare(maps), boxes, images, labels)
        found = self.refiner.climb(fn, torch.zeros_like(boxes), self.refiner.step_size)
        return self.head.decode(found.y, boxes), found.log_density


def check_exportable(model: nn.Module) -> None:
    """Raise ``ValueError`` with the reason if the refinement of this model is no fixed graph."""
    if not isinstance(model, EBMDetector):
        raise ValueError(f"{type(model).__name__} is no EBMDetector; there is nothing to export")
    refiner = model.refiner
    if not isinstance(refiner, GradientAscentRefiner):
        raise ValueError(
            f"model.refiner is {type(refiner).__name__}; only GradientAscentRefiner is exported. "
            "Set model.refiner to it in the config, with a step_size"
        )
    if refiner.prior is not None:
        raise ValueError(
            "model.refiner has a prior, which is checked against values and so cannot be recorded; "
            "set model.refiner.prior=None and a step_size"
        )


@torch.no_grad()
def example(
    model: EBMDetector, image_size: Sequence[int], batch: int, count: int
) -> tuple[Tensor, ...]:
    """Inputs of the graph: ``count`` random boxes, maps of random images (batch, 3, H, W)."""
    height, width = image_size
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, count, 2, generator=generator) * torch.tensor([width, height])
    boxes = torch.cat([corners.amin(0), corners.amax(0) + 8], 1)
    labels = torch.randint(model.energy_head.num_classes, (count,), generator=generator)
    images = torch.arange(count) % batch
    pixels = torch.randn(batch, 3, height, width, generator=generator).to(device)
    maps = model.extract_maps(pixels)
    return boxes.to(device), labels.to(device), images.to(device), *maps


def export_refinement(
    model: EBMDetector, inputs: tuple[Tensor, ...]
) -> torch.export.ExportedProgram:
    """Record the refinement.

    Args:
        model: in eval mode.
        inputs: of :func:`example`.

    Raises:
        ValueError: see :func:`check_exportable`.
    """
    check_exportable(model)
    refinement = Refinement(model).eval()
    # Recorded with its gradients, which torch.export alone cannot take; that gives plain operators.
    with without_reads():
        recorded = make_fx(refinement)(*inputs)
    with torch.no_grad():
        return torch.export.export(recorded, inputs, strict=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Export, load the file again, and compare it with the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("out", type=Path, help="file to write, .pt2; it must not exist")
    parser.add_argument("--image-size", type=int, nargs=2, required=True, metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=1, help="images in a batch")
    parser.add_argument("--boxes", type=int, default=100, help="boxes in a batch")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    if args.out.exists():
        sys.exit(f"{args.out} exists; remove it or name another file")
    model = load_detector(args.config, args.checkpoint, args.device)
    try:
        check_exportable(model)
    except ValueError as error:
        sys.exit(str(error))
    inputs = example(model, args.image_size, args.batch, args.boxes)
    program = export_refinement(model, inputs)
    with open_atomic(args.out) as file:
        torch.export.save(program, file)
    found = torch.export.load(args.out).module()(*inputs)
    wanted = Refinement(model)(*inputs)
    error = (found[0] - wanted[0]).abs().max().item()
    moved = (wanted[0] - inputs[0]).abs().max().item()
    print(f"{args.out}: boxes move by up to {moved:.2g} px, within {error:.2g} px of the model's")


if __name__ == "__main__":
    main()
