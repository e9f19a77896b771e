"""Generated rooms as files, in the layout that `NYUv2Dataset` reads."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ...files import read_json, write_json, write_text
from ..nyuv2.samples import annotate_masks, annotation_file, write_annotations, write_sample
from .missing import absent_modalities, check_shares
from .scenes import CLASSES, SCENE_TYPES, VERSION, RoomOptions, render_room

__all__ = ["write_rooms"]


def write_rooms(
    root: str | Path,
    split: str,
    num_images: int,
    seed: int,
    options: RoomOptions | None = None,
    missing: Mapping[str, float] | None = None,
    progress: Callable[[range], Iterable[int]] = iter,
) -> Path:
    """Write the first rooms of a set; a run that was interrupted is continued.

    The content is that of `RoomScenesDataset` with the same arguments, with normals of 8 bits.
    Written are ``images/``, ``depth/`` (float32, metres), ``normals/`` and ``normals_mask/``, with
    files ``<split>_<number from 1>``, and, last of all, ``annotations/instances_<split>.json``. In
    it, ignored objects have ``iscrowd`` 1, and every object has a mask. Several splits can be in
    one folder; the set that each was made from is in ``rooms_<split>.json``.

    Args:
        root: Folder; made if it does not exist.
        split: Name of the set, for example ``"val"``.
        num_images: Length of the set.
        seed: Number of the endless set. Use a different one for every split.
        options: Settings of the scenes.
        missing: Share of the images without ``depth``, ``normals`` or ``scene``.
        progress: Iterates over the numbers, for example with a progress bar.

    Returns:
        Path of the annotation file.

    Raises:
        FileExistsError: The split exists, complete or begun, and was made from something else.
        ValueError: ``num_images`` is below one, a share is not in [0, 1], or a file of an
            interrupted run is not readable.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}")
    root, options, missing = Path(root), options or RoomOptions(), check_shares(missing)
    _begin(root, split, num_images, seed, options, missing)
    result = annotation_file(root, split)
    parts = root / "annotations" / f".parts_{split}"
    if not result.exists():
        entries = []
        for index in progress(range(num_images)):
            path = parts / f"{index + 1:05d}.json"
            part = read_json(path)
            if part is None:
                part = _write_room(root, split, index, seed, options, missing)
                write_text(path, json.dumps(part))
            entries.append((part["image"], part["annotations"]))
        info = {"description": f"generated rooms, seed {seed}, version {VERSION} of the generator"}
        write_annotations(root, split, entries, CLASSES, SCENE_TYPES, info)
    shutil.rmtree(parts, ignore_errors=True)
    return result


def _begin(
    root: Path, split: str, num_images: int, seed: int, options: RoomOptions, missing: Mapping
) -> None:
    """Write down what the split is made from, or check that it is the same as before."""
    plan = {
        "version": VERSION,
        "num_images": num_images,
        "seed": seed,
        "missing": dict(missing),
        "options": dataclasses.asdict(options),
    }
    plan = json.loads(json.dumps(plan))  # tuples become lists, as in a file
    path = root / f"rooms_{split}.json"
    before = read_json(path)
    if before is None and annotation_file(root, split).exists():
        raise FileExistsError(
            f"{annotation_file(root, split)} exists, and {path}, which would say what it was made "
            "from, does not; nothing is overwritten: choose another folder or split"
        )
    if before is None:
        write_json(path, plan)
    elif before != plan:
        there = {name: before.get(name) for name in plan if before.get(name) != plan[name]}
        now = {name: plan[name] for name in there}
        raise FileExistsError(
            f"{path}: the split {split!r} was made with {there}, not with {now}; nothing is "
            "overwritten: choose another folder or split, or repeat these settings"
        )


def _write_room(
    root: Path, split: str, index: int, seed: int, options: RoomOptions, missing: Mapping
) -> dict:
    """Write one room's files; the entry and the annotations of its image."""
    scene, absent = render_room(seed, index, options), absent_modalities(seed, index, missing)
    has_normals = "normals" not in absent
    entry = write_sample(
        root,
        f"{split}_{index + 1:05d}",
        scene.image,
        depth=None if "depth" in absent else scene.depth,
        normals=scene.normals if has_normals else None,
        normals_mask=scene.face >= 0 if has_normals else None,
    )
    entry = {"id": index + 1, **entry}
    if "scene" not in absent:
        entry["scene_type"] = SCENE_TYPES[scene.scene_type]
    annotations = annotate_masks(scene.masks, scene.labels)
    for annotation, ignored in zip(annotations, scene.ignored):
        annotation["iscrowd"] = int(ignored)
    return {"image": entry, "annotations": annotations}
