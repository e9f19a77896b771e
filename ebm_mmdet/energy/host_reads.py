"""Values of the device that the host reads, and values that it sends: each may wait for the device.

A read costs nothing on a CPU. On a GPU the host stops until the device has finished, and the device
then idles until the host has caught up, which costs more than a pass over a few boxes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "constant",
    "pays_to_read",
    "read_together",
    "records_file",
    "records_graph",
    "without_reads",
]

_Purpose = Literal["nothing", "file", "this machine"]

_recording_for: ContextVar[_Purpose] = ContextVar("recording_for", default="nothing")

FEW = 512
"""Up to so many boxes, leaving some of them out makes no pass over a GPU faster."""


def pays_to_read(device: torch.device, rows: int) -> bool:
    """Whether to read from the device which of ``rows`` boxes can be left out of a computation.

    Never while a graph is made of it (:func:`records_graph`).
    """
    if records_graph():
        return False
    return device.type == "cpu" or rows > FEW


def records_graph() -> bool:
    """Whether a graph is being made (``torch.compile``, :func:`without_reads`), of no values.

    Checks of values are then left out, and nothing is chosen by values.
    """
    return torch.compiler.is_compiling() or _recording_for.get() != "nothing"


def records_file() -> bool:
    """Whether a graph is being made that may run on another machine (:func:`without_reads`)."""
    return _recording_for.get() == "file"


@contextlib.contextmanager
def without_reads(for_this_machine: bool = False) -> Iterator[None]:
    """Compute the same without reading values, as on a GPU, so that a graph can record it.

    Args:
        for_this_machine: the graph runs nowhere else, so it may have what other processors lack.
    """
    token = _recording_for.set("this machine" if for_this_machine else "file")
    try:
        yield
    finally:
        _recording_for.reset(token)


def constant(
    values: float | Sequence[float], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Numbers of the host as a tensor on a device, without waiting for it.

    ``torch.tensor(values, device=device)`` and ``new_tensor`` wait for all work queued before.
    """
    # Memory that is not pinned is copied before this returns, so it may be freed at once.
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


def read_together(*values: Tensor) -> list[Tensor]:
    """Copies on the host of vectors (n_i,) of integers or truth values, by one transfer.

    Each transfer waits for the device, and a small one takes no longer than a smaller one.
    """
    packed = torch.cat([each.long() for each in values]).cpu()
    parts = packed.split([len(each) for each in values])
    return [part.to(each.dtype) for part, each in zip(parts, values)]
