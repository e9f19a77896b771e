"""Write files in the formats in which NYUv2 is published, of any size, for tests and benchmarks."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ebm_mmdet.datasets.nyuv2.maps import encode_mask, encode_normals
from ebm_mmdet.files import open_atomic

__all__ = ["Sample", "write_labeled", "write_normals", "write_splits"]


class Sample(NamedTuple):
    """One image, with rows first.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB.
        depth: ``(H, W)`` in metres.
        labels: ``(H, W)`` numbers of names, from 1; 0 is unlabelled.
        instances: ``(H, W)`` numbers within a class, from 1; 0 is none.
        scene: Such as ``"bedroom_0080"``.
        scene_type: Such as ``"bedroom"``.
    """

    image: np.ndarray
    depth: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    scene: str
    scene_type: str


def write_labeled(
    path: str | Path,
    sample: Callable[[int], Sample],
    count: int,
    names: Sequence[str],
    compression: str | None = "gzip",
) -> None:
    """Write a file like ``nyu_depth_v2_labeled.mat``, one image at a time.

    It is a MATLAB 7.3 file: HDF5 after 512 bytes of MATLAB's header, axes in reverse order, and
    cell arrays of strings as references to arrays of character codes in the group ``#refs#``.

    Args:
        path: File to write; an old one is replaced.
        sample: The image of an index from 0; all have the same size.
        count: Number of images, at least 1.
        names: Names of the labels 1, 2, ...
        compression: Of HDF5; MATLAB compresses.
    """
    import h5py

    height, width = sample(0).depth.shape
    shapes = {
        "images": ((3, width, height), np.uint8),
        "depths": ((width, height), np.float32),
        "rawDepths": ((width, height), np.float32),
        "labels": ((width, height), np.uint16),
        "instances": ((width, height), np.uint8),
    }
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, (shape, dtype) in shapes.items():
            file.create_dataset(
                key, (count, *shape), dtype, chunks=(1, *shape), compression=compression
            )
        scenes, scene_types = [], []
        for index in range(count):
            one = sample(index)
            file["images"][index] = one.image.transpose(2, 1, 0)
            for key, values in (
                ("depths", one.depth),
                ("rawDepths", one.depth),
                ("labels", one.labels),
                ("instances", one.instances),
            ):
                file[key][index] = values.T
            scenes.append(one.scene)
            scene_types.append(one.scene_type)
        codes = file.create_group("#refs#")
        for key, strings in (("names", names), ("scenes", scenes), ("sceneTypes", scene_types)):
            cells = file.create_dataset(key, (1, len(strings)), h5py.ref_dtype)
            for number, text in enumerate(strings):
                code = np.array([[ord(character)] for character in text], np.uint16)
                stored = codes.create_dataset(f"{key}{number}", data=code)
                stored.attrs["MATLAB_class"] = np.bytes_("char")
                cells[0, number] = stored.ref
    with Path(path).open("r+b") as file:
        text = b"MATLAB 7.3 MAT-file, Platform: none, Created by: ebm-mmdet HDF5 schema 1.00 ."
        file.write(text.ljust(124) + b"\x00\x02IM")


def write_splits(path: str | Path, train: Sequence[int], test: Sequence[int]) -> None:
    """Write a file like ``splits.mat``.

    Args:
        path: File to write; an old one is replaced.
        train: Numbers of images, from 1.
        test: Likewise.
    """
    import scipy.io

    columns = {"trainNdxs": train, "testNdxs": test}
    content = {key: np.array(numbers, np.uint16)[:, None] for key, numbers in columns.items()}
    with open_atomic(path) as file:
        scipy.io.savemat(file, content)


def write_normals(path: str | Path, maps: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write an archive like ``normals_gt.tgz``: ``normals_gt/{normals,masks}/0000.png``.

    Args:
        path: File to write; an old one is replaced.
        maps: For each image the normals ``(H, W, 3)`` and their mask ``(H, W)``.
    """
    # Level 1: PNG files are compressed already.
    with (
        open_atomic(path) as file,
        tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive,
    ):
        for index, (normals, mask) in enumerate(maps):
            files = {"normals": encode_normals(normals), "masks": encode_mask(mask)}
            for folder, content in files.items():
                member = tarfile.TarInfo(f"normals_gt/{folder}/{index:04d}.png")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
