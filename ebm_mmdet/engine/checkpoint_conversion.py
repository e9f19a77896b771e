"""The part that the converters of foreign checkpoints share: read, rename, check, write."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..files import write_bytes
from .safe_loading import CheckpointError, read_checkpoint

__all__ = [
    "ConversionError",
    "check_target",
    "conversion_command",
    "read_state_dict",
    "rename_state",
    "some_of",
    "without_wrapper",
    "write_state",
]


class ConversionError(Exception):
    """A checkpoint that cannot be converted; the message names what does not fit."""


def read_state_dict(path: Path, entries: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, with or without a wrapping dictionary.

    Besides tensors and plain values, a file may have the types that our own training checkpoints
    may have, because an optimiser's or scheduler's state may have numpy scalars.

    Args:
        path: the file.
        entries: names of the entry that holds the tensors, in a file that has others as well.

    Raises:
        ConversionError: the file does not exist, has objects of other types, or has no tensors.
    """
    try:
        state = read_checkpoint(path)
    except (FileNotFoundError, CheckpointError) as error:
        raise ConversionError(str(error)) from error
    for name in entries:
        if isinstance(state, dict) and name in state:
            state = state[name]
    if not isinstance(state, dict) or not state:
        raise ConversionError(f"{path} holds no state dict")
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if len(tensors) < len(state):
        others = [key for key in state if key not in tensors]
        raise ConversionError(f"{path} holds entries that are not tensors: {some_of(others)}")
    return tensors


def without_wrapper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the prefix ``module.`` of a model that was trained in parallel."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def rename_state(
    theirs: dict[str, Tensor],
    expected: dict[str, Tensor],
    place: Callable[[str], str | None],
    transform: Callable[[str, Tensor], Tensor | None],
    may_be_left_out: Callable[[str], bool] = lambda name: True,
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename and rearrange the tensors of a foreign state dict.

    Args:
        theirs: tensors by name.
        expected: state dict of our model, with the required names and shapes.
        place: our name of a tensor; None, or a name that ``expected`` lacks, leaves it out.
        transform: the converted tensor of a name, or None if its shape cannot be converted.
        may_be_left_out: whether the model does without a tensor that has no place.

    Returns:
        A copy of ``expected`` with the converted values, metadata included, and the names of the
        foreign tensors that were left out. Counters of batches (``num_batches_tracked``) may be
        missing, because the first versions of PyTorch had none; they are never read.

    Raises:
        ConversionError: a tensor is missing, has another shape, or has an unknown name.
    """
    values, left_out, misshapen = {}, [], []
    for key, value in theirs.items():
        ours = place(key)
        if ours not in expected:
            left_out.append(key)
            continue
        converted = transform(key, value)
        if converted is None or converted.shape != expected[ours].shape:
            misshapen.append(f"{key} {tuple(value.shape)} for {ours}")
        values[ours] = value if converted is None else converted
    needed = [key for key in expected if not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in values]
    unknown = [key for key in left_out if not may_be_left_out(key)]
    if missing or misshapen or unknown:
        problems = [
            ("missing, ours", missing),
            ("of another shape or layout", misshapen),
            ("without a place", unknown or left_out),
        ]
        raise ConversionError(
            "not a checkpoint of the published architecture; "
            + "; ".join(f"{what}: {some_of(keys)}" for what, keys in problems if keys)
        )
    state = expected.copy()
    for key in state:
        if key in values:
            state[key] = values[key].clone().contiguous()
    state._metadata = expected._metadata  # the layout that modules with versions have
    return state, left_out


def write_state(target: Path, state: dict[str, Tensor], meta: dict) -> None:
    """Write a checkpoint of mmengine, completely or not at all.

    Args:
        target: file to write.
        state: of the model.
        meta: for the entry ``meta``; ``dataset_meta`` in it has the names of the classes.

    Raises:
        ConversionError: the file exists.
    """
    check_target(target)
    content = io.BytesIO()
    torch.save(dict(state_dict=state, meta=meta), content)
    write_bytes(target, content.getvalue())


def check_target(target: Path) -> None:
    """Raise ``ConversionError`` if the file to write exists."""
    if target.exists():
        raise ConversionError(f"{target} exists and is not overwritten")


def some_of(keys: Sequence[str], most: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + rest


def conversion_command(
    tool: Path, description: str, run: Callable[[Path, Path], object], argv: list[str] | None = None
) -> None:
    """Run a converter from the command line; errors that the user can fix end it with one line.

    Args:
        tool: file of the converter.
        description: its help.
        run: converts the first file, and writes the second, which must not exist.
        argv: arguments; None for those of the process.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="published checkpoint")
    parser.add_argument("target", type=Path, help="file to write; must not exist")
    args = parser.parse_args(argv)
    try:
        check_target(args.target)  # before the work, and again when it is written
        run(args.source, args.target)
    except ConversionError as error:
        sys.exit(f"{tool.stem}: {error}")
