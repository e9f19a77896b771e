"""Pictures of frames from above: annotations, the detector's boxes, and the refined ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from ebm_mmdet.apis.fitting.detections import Method
from ebm_mmdet.files import write_bytes
from ebm_mmdet.visualization.style import box_legend, new_figure

from ...models import EBM3DDetector
from ...visualization import add_bev_boxes, show_points
from .detections import detect_frame, refine_frame
from .frame_set import FrameSet

__all__ = ["write_frame_pictures"]

DRAWN_SCORE = 0.3
INCHES = 8.0


def write_frame_pictures(
    folder: Path,
    model: EBM3DDetector,
    method: Method,
    frames: FrameSet,
    positions: Sequence[int],
    max_dets: int = 100,
) -> list[str]:
    """Draw frames from above; returns the names of the files, which begin with the folder's."""
    names = []
    x0, y0, _, x1, y1, _ = frames.point_cloud_range
    for number, position in enumerate(positions, 1):
        item = frames[position]
        frame = detect_frame(model, item, max_dets)
        found, _ = refine_frame(model, method, frame)
        before = frame.sample.pred_instances_3d
        keep = (before.scores_3d >= DRAWN_SCORE).cpu()
        truth = frames.truth(position)
        figure = new_figure(INCHES, INCHES * (y1 - y0) / (x1 - x0) + 0.35)
        axes = figure.subplots()
        show_points(axes, item["inputs"]["points"].cpu().numpy(), (x0, y0, x1, y1), size=0.7)
        add_bev_boxes(axes, truth.boxes[~truth.neutral], "truth")
        add_bev_boxes(axes, before.bboxes_3d.tensor.cpu()[keep].numpy()[:, :7], "before")
        add_bev_boxes(axes, found.bboxes_3d.tensor.cpu()[keep].numpy()[:, :7], "after")
        box_legend(figure, ["truth", "before", "after"])
        code = io.BytesIO()
        figure.savefig(code, dpi=100, format="png")
        name = f"{folder.name}/{number}.png"
        write_bytes(folder.parent / name, code.getvalue())
        names.append(name)
    return names
