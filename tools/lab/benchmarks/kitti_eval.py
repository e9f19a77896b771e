"""Time of KITTI's evaluation on a CPU, for a validation set of the size of KITTI's.

    python tools/lab/benchmarks/kitti_eval.py [--frames 3769] [--boxes 50] [--threads 2]

Every frame has this number of cars and of detections: two thirds near a car, the others anywhere.
Two things are timed, for five IoU thresholds from 0.7 to 0.9 and mmdet3d's two, in 3D, BEV and 2D:

- overlaps and AP: `kitti_precision`, from arrays;
- the metric: `EBMKittiMetric`, if mmdet3d is installed; it also loads the annotations, converts
  predictions to camera boxes, projects them, and prints the table.

The time of numba's compiler, which runs once per process, is shown separately. On a machine with
other load, CPU time is more reliable than wall time.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numba
import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # mmdet3d is not needed
    from ebm_mmdet3d.evaluation.kitti_average_precision import kitti_precision

THRESHOLDS = (0.5, 0.7, 0.75, 0.8, 0.85, 0.9)
# Camera at the LiDAR, looking ahead: x = -y, y = -z, z = x.
LIDAR2CAM = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
CAM2IMG = np.array([[720, 0, 610, 0], [0, 720, 175, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def make_boxes(frames: int, boxes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cars and detections (frames, boxes, 7) in LiDAR coordinates, and scores (frames, boxes)."""
    rng = np.random.default_rng(0)

    def anywhere(count: int) -> np.ndarray:
        x = rng.uniform(8, 60, (frames, count))
        y = rng.uniform(-0.7, 0.7, (frames, count)) * x  # in sight of the camera
        rest = rng.normal([-1.7, 3.9, 1.6, 1.56], [0.2, 0.3, 0.1, 0.1], (frames, count, 4))
        yaw = rng.uniform(-np.pi, np.pi, (frames, count))
        return np.concatenate((np.stack((x, y), -1), rest, yaw[..., None]), -1)

    cars = anywhere(boxes)
    near = cars[:, : 2 * boxes // 3]
    near = near + rng.normal(size=near.shape) * [0.12, 0.12, 0.06, 0.06, 0.06, 0.06, 0.03]
    found = np.concatenate((near, anywhere(boxes - near.shape[1])), 1)
    return cars, found, rng.random((frames, boxes))


def as_annotations(boxes: np.ndarray, scores: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """KITTI annotations of one frame, from its boxes (n, 7) in LiDAR coordinates."""
    x, y, z, length, width, height, yaw = boxes.T
    top = 175 - 720 * (z + height) / x
    corner = np.stack((610 - 720 * y / x - 30, top), 1)
    frame = dict(
        name=np.full(len(boxes), "Car"),
        bbox=np.hstack((corner, corner + np.stack((np.full(len(x), 60), 720 * height / x), 1))),
        location=np.stack((-y, -z, x), 1),
        dimensions=np.stack((length, height, width), 1),
        rotation_y=-yaw - np.pi / 2,
    )
    if scores is None:
        return dict(frame, occluded=np.zeros(len(boxes)), truncated=np.zeros(len(boxes)))
    return dict(frame, score=scores)


def timed(name: str, run: Callable[[], object]) -> float:
    """Run once and print the wall and the CPU time; returns the wall time."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name:<24}{wall:8.1f} s, CPU {cpu:6.1f} s", flush=True)
    return wall


def make_metric(folder: Path, cars: np.ndarray, found: np.ndarray, scores: np.ndarray):
    """The metric with an annotation file for these cars, and with all predictions processed."""
    import torch
    from mmdet3d.structures import LiDARInstance3DBoxes
    from mmengine.fileio import dump
    from mmengine.logging import MMLogger

    from ebm_mmdet3d.evaluation import EBMKittiMetric

    MMLogger.get_current_instance().setLevel("WARNING")
    camera = dict(height=375, width=1242, cam2img=CAM2IMG, lidar2cam=LIDAR2CAM)
    infos, samples = [], []
    for k, boxes in enumerate(cars):
        frame = as_annotations(boxes)
        solid = np.hstack((frame["location"], frame["dimensions"], frame["rotation_y"][:, None]))
        instances = [
            dict(bbox=bbox, bbox_3d=box, bbox_label=0, truncated=0.0, occluded=0)
            for bbox, box in zip(frame["bbox"].tolist(), solid.tolist())
        ]
        points = dict(lidar_path=f"{k:06d}.bin")
        infos.append(
            dict(sample_idx=k, images={"CAM2": camera}, lidar_points=points, instances=instances)
        )
        predicted = dict(
            bboxes_3d=LiDARInstance3DBoxes(torch.tensor(found[k], dtype=torch.float32)),
            scores_3d=torch.tensor(scores[k]),
            labels_3d=torch.zeros(len(boxes), dtype=torch.long),
        )
        samples.append(dict(sample_idx=k, pred_instances_3d=predicted, **points))
    dump(dict(metainfo=dict(categories={"Car": 0}), data_list=infos), folder / "infos.pkl")
    metric = EBMKittiMetric(ann_file=str(folder / "infos.pkl"))
    metric.dataset_meta = dict(classes=("Car",))
    metric.process({}, samples)
    return metric


def main() -> None:
    """Time the evaluation and print the time of its parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=3769)
    parser.add_argument("--boxes", type=int, default=50)
    parser.add_argument("--threads", type=int, default=min(2, numba.config.NUMBA_NUM_THREADS))
    args = parser.parse_args()
    numba.set_num_threads(args.threads)

    def evaluate(frames: int) -> None:
        truth = [as_annotations(boxes) for boxes in cars[:frames]]
        detections = [as_annotations(*pair) for pair in zip(found[:frames], scores)]
        kitti_precision(truth, detections, ["Car"], THRESHOLDS, ("3d", "bev", "bbox"))

    cars, found, scores = make_boxes(args.frames, args.boxes)
    print(f"{args.frames} frames x {args.boxes} cars and detections, {args.threads} thread(s)")
    timed("numba's compiler", lambda: evaluate(1))
    timed("overlaps and AP", lambda: evaluate(args.frames))
    if find_spec("mmdet3d"):
        with TemporaryDirectory() as folder:
            metric = make_metric(Path(folder), cars, found, scores)
            timed("the metric, all of it", lambda: metric.evaluate(args.frames))


if __name__ == "__main__":
    main()
