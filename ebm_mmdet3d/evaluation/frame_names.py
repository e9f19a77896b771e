"""Finds the annotated frame to which a prediction belongs.

mmengine numbers the samples of a data set by their position in it. That is the position in the
annotation file only if the data set has all frames of the file, so the name of the data file is
used instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["annotated_rows", "frame_name", "frame_numbers"]


def frame_name(sample: Mapping) -> str | None:
    """Name of the file that a prediction was made from, without folder and suffix.

    Args:
        sample: a data sample, with ``lidar_path`` or ``img_path`` if its pipeline packed one.

    Returns:
        The name; None if there is no single file.
    """
    for key in ("lidar_path", "img_path"):
        if isinstance(sample.get(key), (str, Path)):
            return Path(sample[key]).stem
    return None


def _annotated_name(info: Mapping) -> str | None:
    """Name of the file of a frame in an annotation file."""
    if "lidar_points" in info:
        return Path(info["lidar_points"]["lidar_path"]).stem
    for image in info.get("images", {}).values():
        if "img_path" in image:
            return Path(image["img_path"]).stem
    return None


def frame_numbers(infos: Sequence[Mapping]) -> list[int]:
    """Numbers in the names of the files, if all have different ones; otherwise positions.

    Args:
        infos: frames of an annotation file.
    """
    names = [_annotated_name(info) or "" for info in infos]
    numbers = [int(name) if name.isdecimal() else -1 for name in names]
    usable = -1 not in numbers and len(set(numbers)) == len(numbers)
    return numbers if usable else list(range(len(infos)))


def _position(sample_idx: object, num_frames: int) -> int:
    """The number that mmengine gives a sample, after a check.

    Raises:
        ValueError: it is not a position in the annotation file.
    """
    try:
        position = int(sample_idx)
    except (TypeError, ValueError):
        position = -1
    if not 0 <= position < num_frames:
        raise ValueError(
            f"a prediction has sample_idx={sample_idx!r}, expected its position in the annotation "
            f"file (0 to {num_frames - 1}); let the pipeline pack 'lidar_path' or 'img_path' "
            "(meta_keys), so that the name of the file identifies the frame"
        )
    return position


def annotated_rows(results: Sequence[Mapping], data_list: Sequence[Mapping]) -> list[int]:
    """Position in the annotation file of every result.

    Args:
        results: each with ``frame`` (from :func:`frame_name`) and ``sample_idx``.
        data_list: frames of the annotation file.

    Raises:
        ValueError: there are no results, a result belongs to no frame, the frame of a result
            cannot be determined, or two results belong to the same frame.
    """
    if not results:
        raise ValueError("there are no predictions to evaluate; is the data set empty?")
    names = [_annotated_name(info) for info in data_list]
    position = {name: k for k, name in enumerate(names)}
    if len(position) == len(names) and all(result["frame"] for result in results):
        unknown = [result["frame"] for result in results if result["frame"] not in position]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(results)} predictions are of files that are not "
                f"annotated, {unknown[0]!r} among them; give the metric the annotation file of the "
                "data set."
            )
        rows = [position[result["frame"]] for result in results]
    elif len(results) == len(data_list):
        # The data set has all frames of the file.
        rows = [_position(result["sample_idx"], len(data_list)) for result in results]
    else:
        why = (
            "several frames have files of the same name"
            if len(position) < len(names)
            else "no file names to identify them; let the pipeline pack 'lidar_path' or 'img_path' "
            "(meta_keys)"
        )
        raise ValueError(
            f"{len(results)} predictions for {len(data_list)} annotated frames, and {why}."
        )
    if len(set(rows)) < len(rows):
        twice = next(k for k in rows if rows.count(k) > 1)
        raise ValueError(f"frame {names[twice]!r} was predicted twice; repeat no data for a test.")
    return rows
