"""Memory and time of the converter of NYUv2, on a made-up file of full size.

    python tools/lab/benchmarks/nyuv2_converter.py [--images 300] [--folder /tmp]

The images are 480 x 640, with 20 objects each of the 19 classes and 30 of others, the noise of
a camera, depth, normals and masks; NYUv2 has 1,449 (4 GB of temporary files). The conversion runs
in a process of its own; its peak memory includes Python's packages. Images per second and core are
images divided by the CPU time of that process, so that they do not depend on other load.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dataset_converters.nyuv2_files.writer import (
    Sample,
    write_labeled,
    write_normals,
    write_splits,
)
from ebm_mmdet.datasets.nyuv2.classes import CLASSES

SIZE = 480, 640
NAMES = (*(f"other {number}" for number in range(400)), *CLASSES)


@functools.cache
def camera_noise() -> np.ndarray:
    """Noise ``(H, W, 3)`` of variance 1, which all images share at different places."""
    return np.random.default_rng(0).standard_normal((*SIZE, 3), dtype=np.float32)


def make_sample(index: int) -> Sample:
    """Image `index`: rectangles before a wall, noise as of a camera, and depth of planes."""
    rng = np.random.default_rng(index)
    height, width = SIZE
    labels, instances = np.zeros(SIZE, np.uint16), np.zeros(SIZE, np.uint8)
    image = np.empty((*SIZE, 3), np.float32)
    image[:] = rng.uniform(50, 200, 3)
    depth = np.linspace(5, 3, height, dtype=np.float32)[:, None] + np.zeros(SIZE, np.float32)
    for number in range(50):
        h, w = rng.integers(10, 160, 2)
        y, x = rng.integers(0, height - h), rng.integers(0, width - w)
        place = slice(y, y + h), slice(x, x + w)
        kept = number % 5 < 2
        labels[place] = 401 + rng.integers(19) if kept else 1 + rng.integers(400)
        instances[place] = number + 1
        image[place] = rng.uniform(20, 240, 3)
        depth[place] = rng.uniform(1, 4)
    noise = np.roll(camera_noise(), rng.integers(0, 10**6))
    image += 4 * noise
    depth += 0.01 * noise[..., 0]
    scene_type = ("bedroom", "kitchen", "office")[index // 4 % 3]
    image = image.clip(0, 255).astype(np.uint8)
    return Sample(image, depth, labels, instances, f"{scene_type}_{index // 4:04d}", scene_type)


def make_normals(count: int):
    """Normals and masks: smooth, with noise, and a border that is undefined."""
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, (15, 20, 3)).repeat(32, 0).repeat(32, 1)
    mask = np.zeros(SIZE, bool)
    mask[8:-8, 8:-8] = True
    for index in range(count):
        normals = base + 0.05 * np.roll(camera_noise(), 1000 * index)
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        yield np.where(mask[..., None], normals, 0), mask


def converter_time(*arguments: str | Path) -> float:
    """CPU time in seconds of the converter in a process of its own."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    tool = Path(__file__).resolve().parents[2] / "dataset_converters" / "nyuv2.py"
    before = used()
    subprocess.run(
        [sys.executable, tool, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return used() - before


def main() -> None:
    """Make the files, convert them, and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=300, help="default: 300; NYUv2: 1449")
    parser.add_argument("--folder", type=Path, help="for the files (default: the system's)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = Path(folder)
        start = time.monotonic()
        write_labeled(root / "labeled.mat", make_sample, args.images, NAMES)
        write_normals(root / "normals.tgz", make_normals(args.images))
        numbers = range(1, args.images + 1)
        write_splits(
            root / "splits.mat",
            [n for n in numbers if (n - 1) // 4 % 2 == 0],
            [n for n in numbers if (n - 1) // 4 % 2],
        )
        size = (root / "labeled.mat").stat().st_size / 2**20
        print(f"files made in {time.monotonic() - start:.0f} s ({size:.0f} MiB)", flush=True)
        arguments = [root / "labeled.mat", root / "splits.mat", "--out", root / "out"]
        arguments += ["--normals", root / "normals.tgz"]
        load = os.getloadavg()[0]
        begin = converter_time(root / "absent.mat", root / "splits.mat", "--out", root / "none")
        start = time.monotonic()
        cpu = converter_time(*arguments)
        wall = time.monotonic() - start
        done = len(list((root / "out" / "images").glob("*.png")))
        if done != args.images:
            sys.exit(f"{done} of {args.images} images are converted")
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    print(f"{args.images} images of {SIZE[1]} x {SIZE[0]}, {os.cpu_count()} cores, load {load:.1f}")
    print(f"peak memory of the process        {memory:7.0f} MiB")
    print(f"CPU time                          {cpu:7.1f} s, of which imports {begin:.1f} s")
    print(f"wall time                         {wall:7.1f} s")
    print(f"images per second and core        {args.images / cpu:7.1f}")
    print(f"the same without imports          {args.images / (cpu - begin):7.1f}")


if __name__ == "__main__":
    main()
