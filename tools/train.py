#!/usr/bin/env python
"""Train a detector, an energy head on a frozen one, or an image regressor."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from mmengine.config import Config

from ebm_mmdet.engine import find_resumable_checkpoint, refuse_earlier_training
from ebm_mmdet.engine.command_line import add_common_arguments, build_runner, load_config
from ebm_mmdet.engine.config_options import UsageError
from ebm_mmdet.engine.user_errors import USER_ERRORS


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision (GPU)")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate with the total batch size, from auto_scale_lr of the config",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from this checkpoint; without a name, from the last in the work folder, "
        "or from the beginning if there is none; one that cannot be read stops the command",
    )
    args = parser.parse_args(argv)
    if args.amp and not torch.cuda.is_available():
        parser.error("--amp needs a GPU, and torch sees none: leave it out")
    if args.resume not in (None, "auto") and not Path(args.resume).exists():
        parser.error(f"--resume: there is no file {args.resume}; `--resume` alone finds the last")
    return args


def apply_arguments(cfg: Config, args: argparse.Namespace) -> None:
    """Write the arguments that are only for training into the config."""
    if args.amp:
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.loss_scale = "dynamic"
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise UsageError(
                "--auto-scale-lr: the config does not say which batch size its learning rate "
                "is for. Add e.g. auto_scale_lr=dict(base_batch_size=16)"
            )
        cfg.auto_scale_lr.enable = True
    # The config's own `resume = True` without a file means the same; mmengine would ignore a
    # checkpoint that it does not find.
    if args.resume == "auto" or (
        args.resume is None and cfg.get("resume") and not cfg.get("load_from")
    ):
        checkpoint = find_resumable_checkpoint(cfg.work_dir)
        if checkpoint is None:
            # Not mmengine's automatic resuming, which would also ignore `load_from`.
            print(f"Nothing to resume in {cfg.work_dir}: starting from the beginning.", flush=True)
        else:
            print(f"Resuming from {checkpoint}", flush=True)
            cfg.load_from = checkpoint
        cfg.resume = checkpoint is not None
    elif args.resume is not None:
        cfg.resume = True
        cfg.load_from = args.resume
    if not cfg.get("resume"):
        refuse_earlier_training(cfg.work_dir)


def train(cfg: Config, incomplete: bool = False) -> int:
    """Train according to the config; returns the exit status of the command."""
    try:
        build_runner(cfg, incomplete).train()
    except KeyboardInterrupt:
        print(
            f"\nInterrupted. The checkpoints in {cfg.work_dir} are intact; the same command with "
            "--resume continues from the last.",
            file=sys.stderr,
        )
        return 130
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        cfg = load_config(args)
        apply_arguments(cfg, args)
        return train(cfg, args.incomplete)
    except USER_ERRORS as error:
        sys.exit(f"train: {error}")


if __name__ == "__main__":
    sys.exit(main())
