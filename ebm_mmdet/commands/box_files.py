"""The commands `refine` and `audit`, which take boxes from files."""

from __future__ import annotations

import argparse

from .shared import add_enlarge, kept_on_interruption, say

__all__ = ["COMMANDS", "add_parsers"]


def add_parsers(commands) -> None:
    """Add the parsers of both to the sub-parsers of the command line."""
    refine = commands.add_parser(
        "refine",
        help="refine the boxes of a file: another detector's results, annotations, proposals",
        description="Refine boxes of a file with the features of the config's detector. Scores, "
        "order, ids and all other keys stay. The same command goes on where an interrupted one "
        "was.",
    )
    refine.add_argument("config", help="config of a detector with an energy head")
    refine.add_argument("checkpoint", help="its checkpoint")
    refine.add_argument("--images", required=True, metavar="DIR", help="folder of the images")
    refine.add_argument(
        "--boxes",
        required=True,
        metavar="FILE",
        help="COCO results (.json), an annotation file (.json), or mmdet's proposals (.pkl)",
    )
    refine.add_argument("--out", required=True, metavar="FILE", help="the file to write")
    refine.add_argument("--ann", metavar="FILE", help="annotation file that lists the images")
    refine.add_argument("--steps", type=int, help="refinement steps instead of the config's")
    refine.add_argument("--device", help="cpu or cuda:0; default: a GPU if there is one")

    audit = commands.add_parser(
        "audit",
        help="find annotations that are badly located, missing, or about nothing",
        description="Look for annotations that are badly located, missing, or about nothing, and "
        "write a page to decide on them. The same command goes on where an interrupted one was. "
        "With --apply: write a new annotation file with what was accepted.",
    )
    audit.add_argument("config", nargs="?", help="config of a detector, with a head or without")
    audit.add_argument("checkpoint", nargs="?", help="its checkpoint")
    audit.add_argument("--ann", required=True, metavar="FILE", help="annotations in COCO's format")
    audit.add_argument(
        "--out", required=True, help="a folder for the results; with --apply, the new file"
    )
    audit.add_argument(
        "--images", metavar="DIR", help="folder of the images; default: the config's"
    )
    audit.add_argument(
        "--folds",
        type=int,
        default=5,
        help="heads, each of which judges the images that it has not seen; 0: one head judges all, "
        "faster, and too kindly if it has learned from them; default: 5",
    )
    audit.add_argument("--minutes", type=float, default=30.0, help="time for all; default: 30")
    audit.add_argument(
        "--cache-gb", type=float, default=4.0, help="memory for features; default: 4"
    )
    audit.add_argument(
        "--threshold", type=float, default=0.5, help="probability of a flagged box; default: 0.5"
    )
    audit.add_argument("--max-iters", type=int, default=1500, help="most iterations of each head")
    audit.add_argument("--device", help="cpu or cuda:0; default: a GPU if there is one")
    audit.add_argument("--seed", type=int, default=0)
    audit.add_argument(
        "--no-flips",
        action="store_true",
        help="judge by each image alone, not by its mirror images too, those of the training "
        "pipeline's RandomFlip: faster, and less exact",
    )
    audit.add_argument(
        "--class-blind",
        action="store_true",
        help="the file's categories are not the detector's classes: one f for all of them",
    )
    add_enlarge(audit)
    audit.add_argument("--apply", metavar="FILE", help="decisions that the page has saved")


def _refine(args: argparse.Namespace) -> None:
    from ..apis import refine_file

    with kept_on_interruption():
        done = refine_file(
            args.config,
            args.checkpoint,
            args.images,
            args.boxes,
            args.out,
            args.ann,
            args.steps,
            args.device,
            say,
        )
    about = f", mean IoU with the boxes before {done['mean_iou']:.3f}" if done["refined"] else ""
    print(f"{done['refined']} of {done['boxes']} boxes refined{about}: {args.out}")


def _audit(args: argparse.Namespace) -> None:
    from ..apis import apply_decisions, audit

    if args.apply is not None:
        done = apply_decisions(args.apply, args.ann, args.out)
        print(
            f"{done['moved']} boxes moved, {done['added']} added, {done['removed']} removed: "
            f"{args.out}"
        )
        if done["with_masks"]:
            print(f"{done['with_masks']} of the moved boxes have a mask, which stays as it was")
        return
    if args.config is None or args.checkpoint is None:
        raise ValueError("give CONFIG and CHECKPOINT, or --apply with a file of decisions")
    with kept_on_interruption():
        audit(
            args.config,
            args.checkpoint,
            args.ann,
            args.out,
            args.images,
            args.folds,
            args.minutes,
            args.cache_gb,
            args.threshold,
            args.max_iters,
            args.device,
            args.seed,
            say,
            not args.no_flips,
            args.class_blind,
            args.enlarge,
        )


COMMANDS = {"audit": _audit, "refine": _refine}
