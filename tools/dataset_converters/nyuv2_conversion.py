"""NYUv2 in COCO format: one image at a time, and continued after an interruption.

    OUT/images/0001.png              RGB; the number is that of the image in NYUv2, from 1
    OUT/depth/0001.npy               float32, metres (or 0001.png, 16 bits, millimetres)
    OUT/normals/0001.png             if there is an archive of normals: its files as they are
    OUT/normals_mask/0001.png
    OUT/annotations/instances_{trainval,test}.json
    OUT/annotations/instances_{train,val}.json    if there is a list of scenes for validation
    OUT/conversion.json              sources and options, to which a continued run must agree

The four annotation files are written last. Until then the annotations of every image are a file of
their own in OUT/annotations/.parts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import mmengine
import numpy as np

from ebm_mmdet.datasets.nyuv2.classes import CLASSES
from ebm_mmdet.datasets.nyuv2.maps import encode_depth, encode_png
from ebm_mmdet.datasets.nyuv2.samples import annotation_file, write_annotations
from ebm_mmdet.files import read_json, write_bytes, write_json, write_text

from .nyuv2_files.addresses import ADDRESSES, NYUv2Error
from .nyuv2_files.labeled import LabeledFile
from .nyuv2_files.normals import NormalsArchive
from .nyuv2_files.objects import Options, annotate, category_table
from .nyuv2_files.splits import make_splits, read_splits, read_val_scenes

__all__ = ["convert", "summary"]


def convert(
    labeled: str | Path,
    splits: str | Path,
    out: str | Path,
    normals: str | Path | None = None,
    val_split: str | Path | None = None,
    options: Options | None = None,
) -> list[Path]:
    """Convert NYUv2; a run that was interrupted is continued, and a complete one stays as it is.

    Args:
        labeled: ``nyu_depth_v2_labeled.mat``.
        splits: ``splits.mat``.
        out: Folder to make; the layout is at the top of this module.
        normals: ``normals_gt.tgz``, or the folder in it; without it, there are no normals.
        val_split: ``val_split.txt``, the scenes of the validation split, one a line.
        options: How boxes and depth are written.

    Returns:
        The annotation files.

    Raises:
        NYUv2Error: A source file is not as published, or ``out`` holds anything else than a
            conversion of the same sources with the same options. Sources are checked first.
        OSError: A file cannot be read or written.
    """
    out, options = Path(out), options or Options()
    with LabeledFile(labeled) as source:
        table = category_table(source.names, labeled)
        val_scenes = None if val_split is None else read_val_scenes(val_split)
        official = read_splits(splits, len(source))
        members = make_splits(official, source.scenes, val_scenes)
        archive = None if normals is None else NormalsArchive(normals, len(source))
        plan = {
            "options": dataclasses.asdict(options),
            "labeled": {"bytes": Path(labeled).stat().st_size, "images": len(source)},
            "normals": archive is not None,
            "splits": {name: _digest(numbers) for name, numbers in members.items()},
        }
        _begin(out, plan)
        files = {split: annotation_file(out, split) for split in members}
        if not all(path.exists() for path in files.values()):
            if archive is not None:
                _write_normals(archive, out, source.size)
            parts = _write_images(source, table, out, options, archive is not None)
            _write_splits(out, members, parts, options, sorted(set(source.scene_types)))
    shutil.rmtree(_parts(out), ignore_errors=True)
    return list(files.values())


def summary(path: Path) -> str:
    """One line of counts for an annotation file."""
    content = read_json(path)
    images, annotations = content["images"], content["annotations"]
    counts = Counter(annotation["category_id"] for annotation in annotations)
    per_class = ", ".join(
        f"{category['name']} {counts[category['id']]}" for category in content["categories"]
    )
    empty = len(images) - len({annotation["image_id"] for annotation in annotations})
    degenerate = sum(min(annotation["bbox"][2:]) < 1 for annotation in annotations)
    info = content["info"]
    return (
        f"{path}: {len(images)} images, {empty} of them without an object, {len(annotations)} "
        f"boxes ({per_class}); {degenerate} boxes without width or height; {info['left_out']} "
        f"objects under {info['min_size']} pixels are left out"
    )


def _begin(out: Path, plan: dict) -> None:
    """Make the folder, or check that it holds a conversion by the same plan."""
    path = out / "conversion.json"
    before = _read(path)
    if before is None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise NYUv2Error(f"{out} exists and is no conversion of NYUv2; name a new folder")
        write_json(path, plan)
    elif before != plan:
        differences = [
            f"{name}: {before.get(name)} there, {plan[name]} now"
            for name in plan
            if before.get(name) != plan[name]
        ]
        raise NYUv2Error(
            f"{out} holds a conversion of other sources or with other options "
            f"({'; '.join(differences)}); nothing is overwritten: name a new folder, or repeat "
            "the options of that run"
        )


def _write_normals(archive: NormalsArchive, out: Path, size: tuple[int, int]) -> None:
    print(f"{len(archive)} files of normals and masks", flush=True)
    for kind, index, content in mmengine.track_iter_progress((iter(archive), len(archive))):
        path = out / kind / f"{_name(index)}.png"
        if path.exists():
            continue
        _check_png(content, size, f"{archive.path}, file {index + 1} of {kind}")
        write_bytes(path, content)


def _check_png(content: bytes, size: tuple[int, int], name: str) -> None:
    """Raise unless this is a complete PNG file of a size (height, width)."""
    complete = content[:8] == b"\x89PNG\r\n\x1a\n" and content[-8:] == b"IEND\xaeB`\x82"
    if not complete:
        raise NYUv2Error(f"{name} is not a complete PNG file; {ADDRESSES['normals']} has it")
    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
    if (height, width) != size:
        raise NYUv2Error(
            f"{name} is {width} x {height} pixels; expected {size[1]} x {size[0]}, as its image"
        )


def _write_images(
    source: LabeledFile, table: np.ndarray, out: Path, options: Options, normals: bool
) -> list[dict]:
    """Write images and depth, and return the annotations of every image."""
    print(f"{len(source)} images", flush=True)
    parts = []
    for index in mmengine.track_iter_progress(range(len(source))):
        path = _parts(out) / f"{_name(index)}.json"
        part = _read(path)
        if part is None:
            part = _write_image(source, index, table, out, options)
            if normals:
                part["image"]["normals_file"] = f"{_name(index)}.png"
                part["image"]["normals_mask_file"] = f"{_name(index)}.png"
            write_text(path, json.dumps(part))
        parts.append(part)
    return parts


def _write_image(
    source: LabeledFile, index: int, table: np.ndarray, out: Path, options: Options
) -> dict:
    scan, name = source[index], _name(index)
    image_file, depth_file = f"{name}.png", f"{name}.{options.depth}"
    bgr = np.ascontiguousarray(scan.image[::-1].transpose(2, 1, 0))
    _write_new(out / "images" / image_file, lambda: encode_png(bgr))
    _write_new(out / "depth" / depth_file, lambda: encode_depth(scan.depth.T, f".{options.depth}"))
    annotations, left_out = annotate(scan, table, options)
    height, width = source.size
    image = {
        "id": index + 1,
        "file_name": image_file,
        "width": width,
        "height": height,
        "scene": source.scenes[index],
        "scene_type": source.scene_types[index],
        "depth_file": depth_file,
    }
    return {"image": image, "annotations": annotations, "left_out": left_out}


def _write_splits(
    out: Path,
    members: dict[str, list[int]],
    parts: list[dict],
    options: Options,
    scene_types: list[str],
) -> None:
    for split, numbers in members.items():
        chosen = [parts[number - 1] for number in numbers]
        info = {
            "description": f"NYUv2, split {split}; ids are the numbers of the images, from 1",
            **dataclasses.asdict(options),
            "left_out": sum(part["left_out"] for part in chosen),
        }
        entries = [(part["image"], part["annotations"]) for part in chosen]
        if not annotation_file(out, split).exists():
            write_annotations(out, split, entries, CLASSES, scene_types, info)


def _read(path: Path) -> dict | None:
    """The content of a JSON file of ours; None if it does not exist."""
    try:
        return read_json(path)
    except ValueError as error:
        raise NYUv2Error(str(error)) from error


def _write_new(path: Path, encode: Callable[[], bytes]) -> None:
    # Files are complete if they exist, and the plan says that they would become the same again.
    if not path.exists():
        write_bytes(path, encode())


def _parts(out: Path) -> Path:
    return out / "annotations" / ".parts"


def _name(index: int) -> str:
    return f"{index + 1:04d}"


def _digest(numbers: Sequence[int]) -> str:
    digest = hashlib.sha256(",".join(map(str, numbers)).encode()).hexdigest()[:16]
    return f"{len(numbers)} images, sha256 {digest}"
