"""Batches with frames without points, on which mmdet3d's detectors cannot run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet3d.structures import Det3DDataSample
from torch import Tensor, nn

__all__ = ["occupied_frames", "one_point_frame", "select_frames", "with_points"]


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


def with_points(
    batch_inputs: dict, samples: Sequence[Det3DDataSample]
) -> tuple[dict, list[Det3DDataSample], list[int]]:
    """The frames with points: their inputs, their samples and their indices."""
    occupied = occupied_frames(batch_inputs, len(samples))
    if len(occupied) == len(samples):
        return batch_inputs, list(samples), occupied
    return select_frames(batch_inputs, occupied), [samples[i] for i in occupied], occupied


def one_point_frame(batch_inputs: dict, preprocessor: nn.Module, sample: Det3DDataSample) -> dict:
    """Inputs of one frame with one point, in the middle of the range if the detector has one.

    Args:
        batch_inputs: of frames without points, whose form the result has.
        preprocessor: the detector's.
        sample: of the frame; voxelisation may write into it.
    """
    inputs = select_frames(batch_inputs, [0])
    point = inputs["points"][0].new_zeros(1, inputs["points"][0].shape[1])
    voxels = getattr(preprocessor, "voxel_layer", None)
    if voxels is not None:
        place = point.new_tensor(voxels.point_cloud_range)
        point[0, :3] = (place[:3] + place[3:]) / 2
    inputs["points"] = [point]
    if "voxels" in inputs:
        inputs["voxels"] = preprocessor.voxelize([point], [sample])
    return inputs


def _renumber(coors: Tensor, frames: Sequence[int]) -> Tensor:
    """(V, 4) voxel coordinates whose first column becomes the position in ``frames``."""
    old = torch.as_tensor(frames, device=coors.device, dtype=coors.dtype)
    new = torch.searchsorted(old, coors[:, 0].contiguous()).to(coors.dtype)
    return torch.cat((new.unsqueeze(1), coors[:, 1:]), dim=1)
