"""Move true boxes at random, let an `EBM3DDetector` refine them, and measure the gain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.structures import InstanceData
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from ebm_mmdet.files import write_json
from ebm_mmdet3d.evaluation import box_iou_3d, box_iou_bev
from ebm_mmdet3d.models import EBM3DDetector

from ..demo import report
from ..demo.evaluate import load_model, val_loader
from .study_file import read_study

__all__ = ["JitteredBoxes", "measure_checkpoints", "refine_jittered_boxes"]


class JitteredBoxes(NamedTuple):
    """The true boxes of a frame, and n moved copies of each; (x, y, z, l, w, h, yaw) in LiDAR."""

    frame: str
    """Name of the frame."""
    truth: np.ndarray
    """(G, 7) true boxes."""
    before: np.ndarray
    """(G, n, 7) moved copies before refinement."""
    after: np.ndarray
    """(G, n, 7) the same copies after refinement."""

    def iou(self, boxes: np.ndarray, bev: bool = False) -> np.ndarray:
        """IoU (G, n) of ``before`` or ``after`` with the truth, in 3D or from above."""
        truth = np.broadcast_to(self.truth[:, None], boxes.shape)
        overlap = box_iou_bev if bev else box_iou_3d
        flat = overlap(boxes.reshape(-1, 7), truth.reshape(-1, 7), aligned=True)
        return flat.reshape(boxes.shape[:2])


def refine_jittered_boxes(
    model: EBM3DDetector, loader: DataLoader, num_copies: int = 100, seed: int = 0
) -> Iterator[JitteredBoxes]:
    """Refine true boxes that were moved by draws from the noise distribution of the training.

    Only the features of the detector are used, not its detections.

    Args:
        model: model in eval mode, with a refiner and an objective that has a noise distribution.
        loader: frames with ``eval_ann_info``, in the format of a `KittiDataset` in test mode.
        num_copies: number n of moved copies per box.
        seed: seed of the draws.

    Yields:
        One entry per frame that has objects of the model's classes in the range of its map.

    Raises:
        ValueError: the model has no refiner, its objective has no noise, or ``num_copies`` is below
            one.
    """
    noise = getattr(model.energy_head.objective, "noise", None)
    if model.refiner is None or noise is None:
        raise ValueError(
            f"the model has refiner={model.refiner} and noise={noise}; expected a refiner, and "
            "an objective with a noise distribution (NCEObjective), from which moves are drawn"
        )
    if num_copies < 1:
        raise ValueError(f"num_copies must be at least 1, got {num_copies}")
    generator = torch.Generator().manual_seed(seed)
    for batch in loader:
        with torch.inference_mode():
            data = model.data_preprocessor(batch, False)
            samples = data["data_samples"]
            truths = []
            for sample in samples:
                truth, labels = _objects_in_range(model, sample)
                moves, _ = noise.sample(len(truth), num_copies, generator)
                moved = truth[:, None] + moves.to(truth)
                moved[..., 3:6] = moved[..., 3:6].clamp(min=model.energy_head.min_box_size)
                sample.pred_instances_3d = InstanceData(
                    bboxes_3d=LiDARInstance3DBoxes(moved.flatten(0, 1)),
                    scores_3d=truth.new_ones(len(truth) * num_copies),
                    labels_3d=labels.repeat_interleave(num_copies),
                )
                truths.append((truth, moved))
            feats = model.prepare(model.extract_maps(data["inputs"], samples), samples)
            model.refine(feats, samples)
        for sample, (truth, moved) in zip(samples, truths):
            if len(truth):
                mended = sample.pred_instances_3d.bboxes_3d.tensor.reshape(moved.shape)
                name = Path(sample.metainfo["lidar_path"]).stem
                yield JitteredBoxes(name, *(x.double().numpy() for x in (truth, moved, mended)))


def _objects_in_range(model: EBM3DDetector, sample) -> tuple[Tensor, Tensor]:
    truth = sample.eval_ann_info
    boxes = truth["gt_bboxes_3d"].tensor[:, :7].float()
    labels = torch.as_tensor(truth["gt_labels_3d"])
    extent = torch.as_tensor(model.data_preprocessor.voxel_layer.point_cloud_range).to(boxes)
    inside = ((boxes[:, :2] > extent[:2]) & (boxes[:, :2] < extent[3:5])).all(1)
    keep = inside & (labels >= 0) & model.energy_head.is_trainable_box(boxes)
    return boxes[keep], labels[keep].long()


def measure_checkpoints(
    config: str | Path,
    checkpoints: Sequence[str | Path],
    cfg_options: Mapping[str, object] | None = None,
    num_copies: int = 100,
    seed: int = 0,
    out: Path | None = None,
) -> list[dict]:
    """Measure f alone, without the detector's detections, and print a table.

    This is possible with very few labelled frames. Several checkpoints, of several seeds, give a
    mean and its standard deviation.

    Args:
        config: Config of an ``EBM3DDetector``, such as configs/demo/lidar_kitti_frames_ebm.py; the
            frames of its ``val_dataloader`` are used.
        checkpoints: One per seed.
        cfg_options: Dotted keys and values for the config.
        num_copies: Number of moved copies per box.
        seed: Seed of the moves.
        out: JSON file for the results.

    Returns:
        ``before`` and ``after``, each by the name of a metric, and ``frames`` per checkpoint.

    Raises:
        ValueError: No frame has objects of the model's classes in its range.
    """
    study = read_study(config, cfg_options=cfg_options)
    ((_, cfg),) = study.cfgs.items()
    results = [_measure(cfg, path, num_copies, seed) for path in checkpoints]
    for frame in results[0]["frames"]:
        print(
            f"frame {frame['name']}: {frame['boxes']} boxes, mean 3D IoU "
            f"{frame['before']:.3f} to {frame['after']:.3f}"
        )
    title = f"{num_copies} moved copies of each box"
    Console().print(report.screen_table(results, title, before="moved"))
    print(report.markdown_table(results, before="moved"))
    if out:
        write_json(out, results)
    return results


def _measure(cfg: Config, checkpoint: str | Path, num_copies: int, seed: int) -> dict:
    model, loader = load_model(cfg, str(checkpoint)), val_loader(cfg)
    found = list(refine_jittered_boxes(model, loader, num_copies, seed))
    if not found:
        raise ValueError(
            f"no frame of {cfg.val_dataloader.dataset.data_root} has objects of the config's "
            "classes in the detector's range"
        )
    values = {}
    for when in ("before", "after"):
        boxes = [getattr(frame, when) for frame in found]
        in_3d = np.concatenate([f.iou(b) for f, b in zip(found, boxes)])
        bev = np.concatenate([f.iou(b, bev=True) for f, b in zip(found, boxes)])
        measured = {
            "mean 3D IoU": in_3d.mean(),
            "mean BEV IoU": bev.mean(),
            **{f"3D IoU over {t}, %": 100 * (in_3d > t).mean() for t in (0.7, 0.8, 0.9)},
        }
        values[when] = {name: float(value) for name, value in measured.items()}
    frames = [
        {
            "name": f.frame,
            "boxes": len(f.truth),
            "before": float(f.iou(f.before).mean()),
            "after": float(f.iou(f.after).mean()),
        }
        for f in found
    ]
    return {"checkpoint": str(checkpoint), **values, "frames": frames}
