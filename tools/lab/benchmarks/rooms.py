#!/usr/bin/env python
"""Generated rooms: how long one takes, and what tells the class of an object in them.

    python tools/lab/benchmarks/rooms.py

The second is what a forest of random trees says from an object's box and 12 x 12 values inside it,
of pixels, depth or normals, with the true box given. It needs scikit-learn.
"""

from __future__ import annotations

import argparse
import time

import cv2
import numpy as np

from ebm_mmdet.datasets.rooms import CLASSES, RoomOptions, RoomScene, render_room

GRID = 12


def milliseconds(size: tuple[int, int], count: int) -> tuple[float, float]:
    """Median and maximum of the processor time of one room."""
    options, times = RoomOptions(image_size=size), []
    render_room(0, 0, options)
    for index in range(count):
        start = time.process_time()
        render_room(1, index, options)
        times.append(1000 * (time.process_time() - start))
    return float(np.median(times)), max(times)


def inside(values: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Means of a map over a grid inside a box, as one vector."""
    x1, y1, x2, y2 = box.astype(int)
    part = np.ascontiguousarray(values[y1:y2, x1:x2], np.float32)
    return cv2.resize(part, (GRID, GRID), interpolation=cv2.INTER_AREA).ravel()


def features(scene: RoomScene, box: np.ndarray) -> dict[str, np.ndarray]:
    """What is known of an object; depth comes with the size in metres that follows from it."""
    x1, y1, x2, y2 = box.astype(int)
    grey = scene.image.mean(2, dtype=np.float32)
    grey = (grey - grey[y1:y2, x1:x2].mean()) / (grey[y1:y2, x1:x2].std() + 5)
    edges = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    pixels = [inside(scene.image, box), inside(grey, box), inside(edges, box)]
    away = np.median(scene.depth[y1:y2, x1:x2])
    size = [away, (x2 - x1) * away, (y2 - y1) * away]
    return {
        "box": box,
        "box, pixels": np.concatenate([box, *pixels]),
        "box, normals": np.concatenate([box, inside(scene.normals, box)]),
        "box, depth": np.concatenate([box, inside(scene.depth - away, box), size]),
    }


def main(argv: list[str] | None = None) -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rooms", type=int, default=700, help="five sevenths are learned from")
    args = parser.parse_args(argv)
    for size, count in (((96, 128), 100), ((480, 640), 10)):
        median, most = milliseconds(size, count)
        print(f"{size[0]} x {size[1]}: median {median:.1f} ms, maximum {most:.1f} ms")

    from sklearn.ensemble import ExtraTreesClassifier

    known, labels, room_of = [], [], []
    for index in range(args.rooms):
        scene = render_room(11, index)
        for box, label, ignored in zip(scene.boxes, scene.labels, scene.ignored):
            if not ignored:
                known.append(features(scene, box))
                labels.append(label)
                room_of.append(index)
    labels, learn = np.array(labels), np.array(room_of) < args.rooms * 5 // 7
    print(f"{learn.sum()} objects to learn from, {(~learn).sum()} to test on; mean over classes of")
    print("the share whose class is found from")
    for name in known[0]:
        values = np.array([one[name] for one in known])
        forest = ExtraTreesClassifier(200, min_samples_leaf=2, random_state=0)
        found = forest.fit(values[learn], labels[learn]).predict(values[~learn])
        truth = labels[~learn]
        shares = [
            (found[truth == k] == k).mean() for k in range(len(CLASSES)) if (truth == k).any()
        ]
        print(f"  {name:14s} {np.mean(shares):.3f}")


if __name__ == "__main__":
    main()
