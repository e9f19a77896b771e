"""Batches with frames without points, on which mmdet3d's detectors cannot run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["occupied_frames", "select_frames"]


def occupied_frames(batch_inputs: dict, num_frames: int) -> list[int]:
    """Indices of the frames that have a voxel, or a point where the detector has no voxels.

    mmdet3d infers the batch size from the last voxel, so a frame without any at the end of a batch
    would be missing from the features, and a batch without any would raise.

    Args:
        batch_inputs: output of mmdet3d's data preprocessor: ``points`` (one tensor per frame) and
            ``voxels`` with ``coors`` (V, 4), the index of the frame first.
        num_frames: number of frames B.
    """
    if "voxels" in batch_inputs:
        present = torch.unique(batch_inputs["voxels"]["coors"][:, 0]).tolist()
        return [int(frame) for frame in present]
    if "points" in batch_inputs:
        return [i for i, points in enumerate(batch_inputs["points"]) if len(points)]
    return list(range(num_frames))


def select_frames(batch_inputs: dict, frames: Sequence[int]) -> dict:
    """The inputs of some frames, which must contain all occupied ones, renumbered from 0."""
    selected = {}
    for name, value in batch_inputs.items():
        if name == "voxels":
            selected[name] = {**value, "coors": _renumber(value["coors"], frames)}
        elif isinstance(value, Tensor):
            selected[name] = value[list(frames)]
        elif isinstance(value, (list, tuple)):
            selected[name] = [value[i] for i in frames]
        else:
            selected[name] = value
    return selected


def _renumber(coors: Tensor, frames: Sequence[int]) -> Tensor:
    """(V, 4) voxel coordinates whose first column becomes the position in ``frames``."""
    old = torch.as_tensor(frames, device=coors.device, dtype=coors.dtype)
    new = torch.searchsorted(old, coors[:, 0].contiguous()).to(coors.dtype)
    return torch.cat((new.unsqueeze(1), coors[:, 1:]), dim=1)
