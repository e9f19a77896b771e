"""Write generated scenes to a folder in KITTI's layout, to be processed like real data.

    root/ImageSets/<split>.txt                     names of the frames
    root/training/velodyne/000000.bin              float32 x, y, z, intensity
    root/training/calib/000000.txt                 the same camera for all frames
    root/training/label_2/000000.txt               labels in KITTI's format
    root/training/image_2/000000.png               a grey image, needed for its size

`kitti_preparation` makes mmdet3d's info files from it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from ebm_mmdet3d.datasets.kitti_geometry import (
    SYNTHETIC_CAMERA,
    Camera,
    image_boxes,
    occlusion_level,
    wrap_angle,
)
from ebm_mmdet3d.datasets.lidar_scenes import CLASSES, LidarScene, SceneOptions, render_scene

__all__ = ["label_lines", "write_kitti"]

# KITTI writes two decimals. Here boxes are exact, so they are written to the micrometre.
_DECIMALS = 6


def label_lines(scene: LidarScene, camera: Camera = SYNTHETIC_CAMERA) -> list[str]:
    """The lines of a scene's label file: the vehicles that are at least partly in the image.

    Args:
        scene: a scene with boxes in the LiDAR frame.
        camera: the camera of the frame.
    """
    flat, truncation = image_boxes(scene.boxes, camera)
    level = occlusion_level(scene.occlusion)
    in_camera = camera.boxes_to_camera(scene.boxes)
    lines = []
    for row in np.flatnonzero(truncation < 1):
        x, y, z, length, height, width, angle = in_camera[row]
        alpha = wrap_angle(angle - np.arctan2(x, z))
        numbers = [alpha, *flat[row], height, width, length, x, y, z, angle]
        name = CLASSES[scene.labels[row]]
        values = " ".join(f"{value:.{_DECIMALS}f}" for value in numbers)
        lines.append(f"{name} {truncation[row]:.2f} {level[row]} {values}")
    return lines


def _calibration_lines(camera: Camera) -> list[str]:
    """The lines of KITTI's calibration file; all four cameras are equal."""

    def line(name: str, matrix: np.ndarray) -> str:
        return f"{name}: " + " ".join(f"{value:.12e}" for value in matrix.ravel())

    return [
        *(line(f"P{number}", camera.projection) for number in range(4)),
        line("R0_rect", np.eye(3)),
        line("Tr_velo_to_cam", camera.lidar_to_camera[:3]),
        line("Tr_imu_to_velo", np.eye(4)[:3]),
    ]


def write_kitti(
    root: str | os.PathLike,
    num_scenes: Mapping[str, int],
    seed: int,
    options: SceneOptions | None = None,
) -> Path:
    """Write generated scenes in KITTI's layout.

    The folder is moved into place when everything is written: if it exists, it is complete.

    Args:
        root: Folder to make.
        num_scenes: Number of scenes of each split, by its name, such as ``train`` and ``val``.
            Frames are numbered consecutively.
        seed: Number of the endless set from which scenes ``0, 1, ...`` are taken.
        options: Settings of the scenes.

    Returns:
        ``root``.

    Raises:
        FileExistsError: ``root`` already exists; nothing is changed.
        ValueError: A split has no scene, or its name cannot be a file name.
    """
    root = Path(root)
    if root.exists():
        raise FileExistsError(
            f"{root} exists and is not overwritten; choose another folder or remove it"
        )
    for split, count in num_scenes.items():
        if count < 1 or Path(split).name != split:
            raise ValueError(f"num_scenes has {split!r}: {count}; expected a plain name and >= 1")
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # the rest of an interrupted call
    training, sets = partial / "training", partial / "ImageSets"
    for folder in (sets, *(training / n for n in ("velodyne", "calib", "label_2", "image_2"))):
        folder.mkdir(parents=True)

    image = np.full((*SYNTHETIC_CAMERA.image_shape, 3), 128, np.uint8)
    image = cv2.imencode(".png", image)[1].tobytes()
    calibration = "\n".join(_calibration_lines(SYNTHETIC_CAMERA)) + "\n"
    first = 0
    for split, count in num_scenes.items():
        names = [f"{number:06d}" for number in range(first, first + count)]
        for number, name in enumerate(names, start=first):
            scene = render_scene(seed, number, options)
            scene.points.tofile(training / "velodyne" / f"{name}.bin")
            lines = label_lines(scene)
            (training / "label_2" / f"{name}.txt").write_text("".join(f"{x}\n" for x in lines))
            (training / "calib" / f"{name}.txt").write_text(calibration)
            (training / "image_2" / f"{name}.png").write_bytes(image)
        (sets / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        first += count
    os.replace(partial, root)
    return root
