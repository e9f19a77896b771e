"""Tensors in files that are whole or not there, whenever the process dies."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from ebm_mmdet.files import write_bytes

__all__ = ["save_tensors"]


def save_tensors(path: Path, state: dict) -> None:
    """Write what ``torch.load(path, weights_only=True)`` gives back; folders are made as needed."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())
