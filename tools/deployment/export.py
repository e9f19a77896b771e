"""Export a model with its refinement as one file that runs without mmdet and this package.

    python tools/deployment/export.py CONFIG CHECKPOINT detector.onnx --image-size 416 416
    python tools/deployment/export.py CONFIG CHECKPOINT detector.pt2 --image-size 416 416
    python tools/deployment/export.py CONFIG CHECKPOINT refinement.pt2 --image-size 800 1333 \
        --refinement-only

The suffix decides: .onnx for onnxruntime and others, .pt2 for `torch.export.load`. The whole
detector takes one image (1, 3, H, W), as the test pipeline of the config resizes it, float32 from 0
to 255, and returns boxes (K, 4) in its pixels, scores (K,), labels (K,), log-densities (K,) and the
number of rows that are filled. With --refinement-only it takes the boxes, their labels and images,
and the maps of another detector, and returns refined boxes before clipping and f. All shapes are
fixed. Of a detector without a limit of boxes (YOLOX) the file has the 100 of the highest scores, or
as many as --boxes says; what `predict` has beyond them is counted.

Gradient ascent is unrolled with its closed-form gradients. Exact pooling is written out as matrix
products with the whole map. --with-operators keeps our operators in a .pt2 instead: faster, and
`import ebm_ops` has to come before it is loaded.

Exported are detectors with one stage and mmdet's common decoding (FCOS, RetinaNet, ATSS, RTMDet,
YOLOX), Faster R-CNN, and refiners that draw no random numbers. Anything else is refused, with the
name of the part.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from ebm_mmdet.apis import image_pipeline, load_detector
from ebm_mmdet.apis.exporting import (
    Comparison,
    DetectorGraph,
    RefinementGraph,
    check_suffix,
    left_out,
    open_graph,
    record,
    write_graph,
)

CLOSE = 0.001
"""Pixels by which boxes of a file may differ from the model's without being counted."""

SCORES = 0.05, 0.3
"""From these scores on, boxes beyond the rows of a file are counted: mmdet's common threshold for
an evaluation, and that for drawing. Below the first are thousands of YOLOX's."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Export, load the file again, and compare it with the model on other inputs."""
    args = _parser().parse_args(arguments)
    if args.out.exists():
        sys.exit(f"{args.out} exists; name a new file, or move that one away")
    plain = not args.with_operators
    try:
        check_suffix(args.out, plain)
        model = load_detector(args.config, args.checkpoint, args.device)
        graph, first, others, wanted = (_refinement if args.refinement_only else _detector)(
            model, args
        )
        names = [*graph.input_names, *(f"map{number}" for number in range(len(first)))]
        recorded = record(graph, first, names[: len(first)], graph.output_names, plain)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        sys.exit(str(error))
    classes = list(model.dataset_meta.get("classes") or ())
    write_graph(recorded, args.out, {"classes": classes, "image_size": args.image_size})
    run = open_graph(args.out)
    compared = Comparison(graph.output_names)
    for inputs in others:
        compared.add(run(*inputs), wanted(*inputs))
    where = f"{len(others)} " + ("images" if args.images else "inputs of noise")
    worst = dict(compared.worst)
    far = sum(not apart <= CLOSE for apart in compared.moved)
    print(
        f"{args.out}: boxes within {worst.pop('boxes'):.2g} px of the model's, on {where}; "
        f"{far} of {len(compared.moved)} are more than {CLOSE:g} px away;"
    )
    print("others within: " + ", ".join(f"{name} {apart:.2g}" for name, apart in worst.items()))
    for line in _not_in_both(compared, model.min_score):
        print(line)
    for part in _scores_unread(model) if args.refinement_only else left_out(model):
        print(f"not in the file: {part}")
    if args.with_operators:
        print("before torch.export.load: import ebm_ops")


def _not_in_both(compared: Comparison, min_score: float) -> list[str]:
    """What is said of boxes that are in the file alone, or in the model's results alone."""
    lines = []
    scores = [score for each in compared.beyond for score in each.tolist()]
    if scores:
        levels = sorted({*SCORES, min_score} - {0})
        counts = {level: compared.beyond_with(level) for level in levels}
        needed = compared.rows + max(counts[levels[0]])
        lines.append(
            f"predict has {len(scores)} boxes more, for which the file's {compared.rows} rows have "
            f"no place; the best has score {max(scores):.2g}; with "
            + ", with ".join(f"{level:g} or more: {sum(each)}" for level, each in counts.items())
        )
        if needed > compared.rows:
            lines.append(f"--boxes {needed} has place for all of them from {levels[0]:g} on")
    if compared.missing:
        lines.append(
            f"the file lacks {compared.missing} boxes of predict's, and has rows left for them: "
            "give more --candidates, if there are more boxes than that above the score threshold"
        )
    if compared.added:
        lines.append(
            f"the file has {compared.added} boxes that predict lacks; where max_per_img is -1, "
            "parts of mmdet leave out the last box of an image, and the file keeps it"
        )
    return lines


def _rows_differ(graph: DetectorGraph, boxes: int | None) -> str | None:
    """What is said, before the long work, of a number of rows that the user did not choose."""
    if boxes is not None:
        return None
    if graph.limit is None:
        return (
            f"predict has no limit of boxes here (max_per_img): the file gets {graph.count} rows, "
            "for those of the highest scores; --boxes gives another number"
        )
    if graph.limit > graph.count:
        return (
            f"max_per_img is {graph.limit}, but the file gets {graph.count} rows, because there "
            f"are {graph.places} candidates; --candidates or --boxes gives another number"
        )
    return None


def _scores_unread(model: nn.Module) -> list[str]:
    """What a refinement without scores leaves out."""
    low = model.min_score > 0
    return [f"min_score={model.min_score:g}: give it the other boxes alone"] if low else []


def _refinement(model: nn.Module, args: argparse.Namespace) -> tuple:
    """The graph, inputs to record it with, inputs to compare with, and what is right for them."""
    if args.images:
        raise ValueError("--images are for whole detectors, and not for --refinement-only")
    graph = RefinementGraph(model).eval()
    count = args.boxes or 100
    first, *others = (
        graph.example(model, args.image_size, args.batch, count, seed) for seed in range(3)
    )
    return graph, first, others, graph


def _detector(model: nn.Module, args: argparse.Namespace) -> tuple:
    """As :func:`_refinement`."""
    if args.batch != 1:
        raise ValueError("--batch is for --refinement-only; a whole detector takes one image")
    graph = DetectorGraph(model, args.image_size, args.boxes, args.candidates).eval()
    if line := _rows_differ(graph, args.boxes):
        print(line, flush=True)
    others = [graph.example(seed) for seed in (1, 2)]
    if args.images:
        load = image_pipeline(model.cfg)
        others = [
            (_padded(load(path)["inputs"], graph.image_size, path).to(args.device),)
            for path in args.images
        ]
    return graph, graph.example(0), others, graph.predicted


def _padded(image: Tensor, size: tuple[int, int], path: str) -> Tensor:
    """An image (3, h, w) of the test pipeline as (1, 3, H, W) float32, with zeros around it."""
    missing = [whole - part for whole, part in zip(size, image.shape[1:])]
    if min(missing) < 0:
        raise ValueError(
            f"{path} is {image.shape[1]} x {image.shape[2]} after the test pipeline of the config, "
            f"more than --image-size {size[0]} {size[1]}"
        )
    return functional.pad(image.float(), (0, missing[1], 0, missing[0])).unsqueeze(0)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("out", type=Path, help="file to write, .onnx or .pt2")
    parser.add_argument("--image-size", type=_positive, nargs=2, required=True, metavar=("H", "W"))
    parser.add_argument(
        "--boxes",
        type=_positive,
        help="rows of the result; default: max_per_img of the config, or 100 if it has no limit",
    )
    parser.add_argument(
        "--candidates",
        type=_positive,
        help="boxes of the highest scores before NMS; default 1000, with EnergyGuidedNMS 300, or "
        "--boxes if that is more",
    )
    parser.add_argument("--refinement-only", action="store_true", help="not the detector")
    parser.add_argument("--batch", type=_positive, default=1, help="images, with --refinement-only")
    parser.add_argument(
        "--with-operators", action="store_true", help="keep the operators of ebm_ops (.pt2)"
    )
    parser.add_argument("--device", default="cpu", help="of a .pt2")
    parser.add_argument(
        "--images", nargs="+", metavar="FILE", help="compare on these instead of on noise"
    )
    return parser


if __name__ == "__main__":
    main()
