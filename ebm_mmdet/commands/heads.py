"""The commands `inspect`, `add-head` and `fit`: from a detector to one with an energy head."""

from __future__ import annotations

import argparse
import shlex

from .shared import add_enlarge, is_3d, kept_on_interruption, read_config, say

__all__ = ["COMMANDS", "add_parsers"]


def add_parsers(commands) -> None:
    """Add the parsers of these to the sub-parsers of the command line."""
    inspect = commands.add_parser(
        "inspect",
        help="which maps of a detector an energy head would read, and why",
        description="List a detector's maps, and what an energy head on it would be set to. Needs "
        "no checkpoint and no data.",
    )
    inspect.add_argument("config", help="a config file, or the name of a packaged one: mmdet::NAME")
    _add_object_size(inspect)
    add_enlarge(inspect)

    add = commands.add_parser(
        "add-head",
        help="write the config of a detector with an energy head",
        description="Write NAME_ebm.py, which inherits from the detector's config; tools/train.py "
        "trains it. An existing file is not overwritten.",
    )
    add.add_argument("config", help="the detector's config")
    add.add_argument("checkpoint", help="the detector's checkpoint")
    add.add_argument("--out", help="the file to write; default: NAME_ebm.py beside NAME.py")
    add.add_argument("--max-iters", type=int, default=10000, help="length of the training")
    _add_object_size(add)
    add_enlarge(add)

    fit = commands.add_parser(
        "fit",
        help="train and tune an energy head within a time, and say whether it pays",
        description="Train an energy head on a frozen detector, tune its refinement, compare it "
        "with simpler corrections on the validation images, and leave config, checkpoint, pictures "
        "and a page. The same command goes on where an interrupted one was.",
    )
    fit.add_argument("config", help="the detector's config")
    fit.add_argument("checkpoint", help="the detector's checkpoint")
    fit.add_argument("--minutes", type=float, default=20.0, help="time for all of it; default: 20")
    fit.add_argument("--cache-gb", type=float, default=4.0, help="memory for features; default: 4")
    fit.add_argument("--out-dir", help="folder of the results; default: NAME_fit")
    fit.add_argument("--device", help="cpu or cuda:0; default: a GPU if there is one")
    fit.add_argument("--seed", type=int, default=0)
    fit.add_argument("--max-iters", type=int, default=10000, help="most iterations of the training")
    add_enlarge(fit)


def _add_object_size(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--object-size",
        type=float,
        metavar="PX",
        help="usual side of an object in pixels of the network's input; small ones are read on "
        "finer maps of the backbone as well (fit measures it)",
    )


def _refuse_in_3d(args: argparse.Namespace) -> None:
    if getattr(args, "object_size", None) is not None:
        raise ValueError("--object-size is for images; in 3D there is one map to read")
    if args.enlarge != 1:
        raise ValueError("--enlarge is for images; in 3D a map has the cells that its voxels have")


def _inspect(args: argparse.Namespace) -> None:
    cfg = read_config(args.config)
    if is_3d(cfg):
        from ebm_mmdet3d.inspection import inspect_config_3d

        _refuse_in_3d(args)
        print(inspect_config_3d(cfg).report())
        return
    from ..apis import inspect_config

    print(inspect_config(cfg, args.object_size, args.enlarge).report())


def _add_head(args: argparse.Namespace) -> None:
    if is_3d(read_config(args.config)):
        from ebm_mmdet3d.apis import write_energy_config_3d

        _refuse_in_3d(args)
        path = write_energy_config_3d(args.config, args.checkpoint, args.out, args.max_iters)
    else:
        from ..apis import write_energy_config

        path = write_energy_config(
            args.config,
            args.checkpoint,
            args.out,
            args.max_iters,
            object_size=args.object_size,
            enlarge=args.enlarge,
        )
    print(f"Wrote {path}. Train it with: python tools/train.py {shlex.quote(str(path))}")


def _fit(args: argparse.Namespace) -> None:
    more = {}
    if is_3d(read_config(args.config)):
        from ebm_mmdet3d.apis import fit_3d as fit

        _refuse_in_3d(args)
    else:
        from ..apis import fit

        more["enlarge"] = args.enlarge

    with kept_on_interruption():
        fit(
            args.config,
            args.checkpoint,
            args.out_dir,
            args.minutes,
            args.cache_gb,
            args.device,
            args.seed,
            args.max_iters,
            say=say,
            **more,
        )


COMMANDS = {"add-head": _add_head, "fit": _fit, "inspect": _inspect}
