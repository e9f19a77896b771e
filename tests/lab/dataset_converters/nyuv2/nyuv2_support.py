"""Files like those of NYUv2 in miniature, their truth, and the files that are made of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset_converters.nyuv2_files.writer import (
    Sample,
    write_labeled,
    write_normals,
    write_splits,
)
from ebm_mmdet.datasets.nyuv2.classes import CLASSES
from ebm_mmdet.datasets.nyuv2.maps import unit_vectors

ROOT = Path(__file__).parents[4]
HEIGHT, WIDTH = 48, 64
# Classes at scattered numbers, between others, some with names that contain theirs.
NAMES = ["wall", "floor", "night", "box of tissue"]
for _name in CLASSES:
    NAMES += [_name, f"{_name} part"]
# (name, instance, first row, last row, first column, last column), painted in this order
OBJECTS = [
    [("bed", 1, 10, 30, 5, 40), ("pillow", 1, 12, 16, 8, 20), ("pillow", 2, 12, 16, 25, 38)],
    [("chair", 1, 0, 47, 0, 63), ("sink", 3, 7, 7, 9, 9), ("wall", 1, 20, 22, 0, 60)],
    [("wall", 1, 0, 20, 0, 63), ("sofa part", 2, 30, 40, 3, 9)],
    [("table", 255, 30, 40, 10, 50), ("toilet", 1, 5, 9, 60, 63), ("table", 0, 0, 3, 0, 9)],
    [("lamp", 1, 1, 9, 1, 2), ("lamp", 1, 30, 33, 50, 51), ("television", 2, 12, 20, 10, 31)],
    [("desk", 7, 20, 47, 3, 60), ("monitor", 1, 22, 30, 20, 33), ("box", 2, 40, 40, 20, 33)],
]
SCENES = [
    "bedroom_0001",
    "kitchen_0002",
    "kitchen_0002",
    "bathroom_0003a",
    "bedroom_0004",
    "home_office_0005",
]
TRAIN, TEST = [1, 2, 3, 5], [4, 6]


class Sources(NamedTuple):
    """The four source files."""

    labeled: Path
    splits: Path
    normals: Path
    val_split: Path


def sample(index: int) -> Sample:
    """Image `index`, without symmetry, so that no axis can be confused with another."""
    rng = np.random.default_rng(index)
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    instances = np.zeros((HEIGHT, WIDTH), np.uint8)
    image = rng.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    depth = rng.uniform(0.5, 10, (HEIGHT, WIDTH)).astype(np.float32)
    for name, instance, y1, y2, x1, x2 in OBJECTS[index]:
        labels[y1 : y2 + 1, x1 : x2 + 1] = NAMES.index(name) + 1
        instances[y1 : y2 + 1, x1 : x2 + 1] = instance
    scene = SCENES[index]
    return Sample(image, depth, labels, instances, scene, scene.rsplit("_", 1)[0])


def normals(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Normals and mask of image `index`."""
    rng = np.random.default_rng([1, index])
    return unit_vectors(rng.normal(size=(HEIGHT, WIDTH, 3))), rng.random((HEIGHT, WIDTH)) > 0.3


def truth(index: int) -> dict[tuple[str, int], np.ndarray]:
    """The mask of every object of the 19 classes, pixel by pixel: (name, instance) to mask."""
    one, found = sample(index), {}
    for y, x in np.ndindex(HEIGHT, WIDTH):
        name = NAMES[one.labels[y, x] - 1] if one.labels[y, x] else None
        if name in CLASSES and one.instances[y, x]:
            key = name, int(one.instances[y, x])
            found.setdefault(key, np.zeros((HEIGHT, WIDTH), bool))[y, x] = True
    return found


def write_sources(folder: Path) -> Sources:
    """Write all source files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = Sources(
        *(folder / name for name in ("labeled.mat", "splits.mat", "normals.tgz", "val.txt"))
    )
    write_labeled(files.labeled, sample, len(SCENES), NAMES)
    write_splits(files.splits, TRAIN, TEST)
    write_normals(files.normals, map(normals, range(len(SCENES))))
    files.val_split.write_text("kitchen_0002\n\n")
    return files


def read(out: Path, split: str) -> dict:
    """The annotations of a split."""
    return json.loads((out / "annotations" / f"instances_{split}.json").read_text())


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def tool():
    """The command as a module."""
    path = ROOT / "tools" / "dataset_converters" / "nyuv2.py"
    spec = importlib.util.spec_from_file_location("nyuv2_tool", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
