"""Pictures of the frames of a test, seen from above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmdet3d.structures import Det3DDataSample
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ebm_mmdet.engine.config_options import UsageError
from ebm_mmdet.visualization.style import new_figure, save_figure

from .from_above import add_bev_boxes, show_points

__all__ = ["BEVPicturesHook"]

INCHES = 8.0


class BEVPicturesHook(Hook):
    """Writes a picture of each test frame: points, annotations (dashed) and predicted boxes.

    mmdet3d's own hook draws LiDAR frames in a window of open3d, which needs a display.
    ``tools/test.py --show-dir`` adds this one where the config does not say otherwise.

    Args:
        folder: of the pictures, inside of the run's ``WORK_DIR/TIMESTAMP``.
        score_thr: lowest score of a box that is drawn.
    """

    def __init__(self, folder: str | Path, score_thr: float = 0.3) -> None:
        self.folder, self.score_thr = folder, score_thr

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[Det3DDataSample] | None = None,
    ) -> None:
        """Called by mmengine; the pictures have the names of the files of the points.

        Raises:
            UsageError: the frames have no points.
        """
        inputs = data_batch["inputs"] if data_batch else {}
        if "points" not in inputs:
            raise UsageError(
                "--show-dir draws points and boxes from above, and these frames have no points; "
                "for a detector of images set default_hooks.visualization.vis_task='mono_det'"
            )
        folder = Path(runner.work_dir, runner.timestamp, self.folder)
        for points, sample in zip(inputs["points"], outputs or ()):
            # Of the data set: a file, or a number or text.
            name = sample.metainfo.get("lidar_path") or sample.metainfo.get("sample_idx", batch_idx)
            name = f"{name:06d}" if isinstance(name, int) else Path(str(name)).stem
            self._draw(points.cpu().numpy(), sample, _window(runner.model), folder / f"{name}.png")

    def _draw(
        self,
        points: np.ndarray,
        sample: Det3DDataSample,
        window: tuple[float, ...] | None,
        path: Path,
    ) -> None:
        found = sample.pred_instances_3d
        keep = (found.scores_3d >= self.score_thr).cpu()
        boxes = found.bboxes_3d.tensor.detach().cpu().float()[keep].numpy()[:, :7]
        truth = _annotated(sample)
        if window is None:
            places = np.concatenate([points[:, :2], boxes[:, :2], truth[:, :2]])
            places = places[np.isfinite(places).all(1)]
            low, high = (places.min(0) - 1, places.max(0) + 1) if len(places) else ((0, 0), (1, 1))
            window = (*low, *high)
        x0, y0, x1, y1 = window
        figure = new_figure(INCHES, min(2 * INCHES, INCHES * (y1 - y0) / (x1 - x0)))
        axes = figure.subplots()
        show_points(axes, points, window, size=0.7)
        add_bev_boxes(axes, truth, "truth")
        add_bev_boxes(axes, boxes, "after")
        save_figure(figure, path, dpi=100)


def _annotated(sample: Det3DDataSample) -> np.ndarray:
    """(n, 7) annotated boxes of a frame, none where the data set does not give them."""
    known = sample.get("eval_ann_info") or {}
    boxes = known.get("gt_bboxes_3d") if hasattr(known, "get") else None
    if boxes is None and "bboxes_3d" in (truth := sample.get("gt_instances_3d", {})):
        boxes = truth.bboxes_3d
    if boxes is None:
        return np.zeros((0, 7))
    return np.asarray(getattr(boxes, "tensor", boxes), float).reshape(len(boxes), -1)[:, :7]


def _window(model: nn.Module) -> tuple[float, ...] | None:
    """``(x0, y0, x1, y1)`` in metres that the detector looks at, or None if it does not say."""
    for module in model.modules():
        place = getattr(getattr(module, "voxel_layer", None), "point_cloud_range", None)
        if place is not None:
            x0, y0, _, x1, y1, _ = (float(each) for each in place)
            return x0, y0, x1, y1
    return None
