"""Files of recorded graphs: `.pt2` of torch.export and `.onnx`, written, run and compared."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...files import open_atomic
from .recording import Recorded

__all__ = ["check_suffix", "largest_differences", "open_graph", "write_graph"]

_NOTES = "ebm_mmdet.json"
"""Name of the notes in a `.pt2`; in a `.onnx` they are `metadata_props`."""


def check_suffix(path: Path, plain: bool = True) -> None:
    """Check that a file of this name can be written, before long work starts.

    Args:
        path: the file.
        plain: as in :func:`~.recording.record`.

    Raises:
        ValueError: the suffix is neither `.pt2` nor `.onnx`, or it is `.onnx` and not plain.
        ModuleNotFoundError: it is `.onnx`, and packages for it are missing.
    """
    if path.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"{path} ends in {path.suffix!r}; give a file .pt2 or .onnx")
    if path.suffix == ".pt2":
        return
    if not plain:
        raise ValueError(f"{path}: ONNX has no operator for exact pooling; write a .pt2")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _import(name)


def write_graph(recorded: Recorded, path: Path, notes: dict[str, object]) -> None:
    """Write a graph, completely or not at all.

    Args:
        recorded: of :func:`~.recording.record`.
        path: `.pt2` or `.onnx`.
        notes: plain values that a user of the file needs, such as the names of the classes.
    """
    check_suffix(path, recorded.plain)
    texts = {name: json.dumps(value) for name, value in notes.items()}
    if path.suffix == ".pt2":
        with open_atomic(path) as file:
            torch.export.save(recorded.program, file, extra_files={_NOTES: json.dumps(notes)})
        return
    found = torch.onnx.export(
        recorded.program,
        dynamo=True,
        optimize=False,
        input_names=list(recorded.input_names),
        output_names=list(recorded.output_names),
        verbose=False,
    )
    _simplify(found.model)
    found.model.metadata_props.update(texts)
    with open_atomic(path) as file:
        file.write(found.model_proto.SerializeToString())


def _simplify(model) -> None:
    """Fold constants and common parts of an ``onnx_ir.Model``, in place.

    Not the exporter's ``optimize=True``: its rules also fuse Min and Max into Clip, and give two of
    one tensor the same constants, with which the file is not valid (onnxscript 0.7.2).
    """
    optimizer, passes = _import("onnxscript.optimizer"), _import("onnx_ir.passes.common")
    optimizer.inline(model)
    optimizer.fold_constants(model)
    optimizer.remove_unused_nodes(model)
    for each in (
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
    ):
        each(model)


def open_graph(path: Path) -> Callable[..., list[Tensor]]:
    """Load a file; the result maps its input tensors to a list of its outputs.

    A `.pt2` is run by torch on the device of the model, an `.onnx` by onnxruntime on the CPU and as
    many threads as torch has.
    """
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()
        return lambda *inputs: list(module(*inputs))
    runtime = _import("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        values = dict(zip(names, (each.cpu().numpy() for each in inputs)))
        return [torch.as_tensor(each) for each in session.run(None, values)]

    return run


def largest_differences(
    names: Sequence[str], found: Sequence[Tensor], wanted: Sequence[Tensor]
) -> dict[str, float]:
    """The largest difference of each output; infinities and NaN that both have count as equal."""
    differences = {}
    for name, one, other in zip(names, found, wanted):
        one, other = one.cpu(), other.cpu()
        same = (one == other) | (one.isnan() & other.isnan())
        apart = (one.double() - other.double()).abs().masked_fill(same, 0).nan_to_num(nan=torch.inf)
        differences[name] = apart.max().item() if apart.numel() else 0.0
    return differences


def _import(name: str):
    """Import an optional package.

    Raises:
        ModuleNotFoundError: it is missing; the message says how to get it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f"{name} is not installed, which ONNX files need; `pip install onnx onnxscript "
            "onnxruntime`, or install this package with its extra [onnx]",
            name=name,
        ) from error
