"""The device that a command computes on."""

from __future__ import annotations

import torch

__all__ = ["usable_device"]


def usable_device(device: str | torch.device | None = None) -> torch.device:
    """The device of a name, if this machine has it; by default a GPU if there is one.

    Called before long work: a model would fail only when it is moved there.

    Args:
        device: such as ``'cpu'`` or ``'cuda:0'``, or None.

    Raises:
        ValueError: torch does not know the device, or there is no such GPU; the message has what
            there is.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is None:
        return torch.device("cuda:0" if gpus else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r}; expected 'cpu', or 'cuda:0' for a GPU") from error
    if found.type == "cuda" and (found.index or 0) >= gpus:
        there = "torch finds no GPU here; `python -m ebm_mmdet` says more"
        if gpus:
            there = f"there are {gpus} GPUs, the last is 'cuda:{gpus - 1}'"
        raise ValueError(f"device={str(device)!r}: {there}. Give another device, or none")
    return found
