"""Frames of LiDAR points and boxes in 3D, as :mod:`ebm_mmdet.apis.fitting` needs them."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from mmdet3d.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from ebm_mmdet.apis.config_faults import building
from ebm_mmdet.apis.config_text import type_name
from ebm_mmdet.apis.fitting.data import FitData
from ebm_mmdet.apis.fitting.detections import Detected, Method
from ebm_mmdet.apis.inspection import inner_datasets

from ...evaluation import box_iou_3d
from ...inspection import point_cloud_range
from ..energy_config import add_energy_head_3d, refuse_2d, write_energy_config_3d
from ..head_settings import spread_3d
from .detections import detect_frame, frame_records, make_frame_view, refine_frame
from .frame_set import FrameSet, annotations, frame_key
from .matching import HEADINGS, MatchedFrames, matched_residuals_3d
from .pictures import write_frame_pictures
from .rivals import BoxRegressor3D, FixedOffset3D, RegressionStep3D

__all__ = ["Frames"]

FEW_FRAMES = 50
"""Enough for the median bottom and height of objects."""


class Frames:
    """See :class:`~ebm_mmdet.apis.fitting.kind.Kind`."""

    noun, dim, headings = "frame", 7, HEADINGS
    high, precise_iou = "AP80", 88.0
    settings: ClassVar[dict] = {}
    delivered: ClassVar[dict] = {}
    described = (
        "AP is the mean over IoU 0.5 to 0.95, AP80 that at 0.8, of boxes in 3D and seen from above "
        "(BEV), 101 recalls. Mean IoU is that in 3D of boxes that match an object at IoU 0.5. "
        "Objects of other classes, outside of the range, without points or beyond KITTI's hard "
        "do not count."
    )

    def refuse(self, cfg: Config) -> None:
        refuse_2d(cfg)

    def begin(self, cfg: Config) -> None:
        init_default_scope("mmdet3d")
        box_iou_3d(np.zeros((1, 7)), np.zeros((1, 7)))  # compiles now, and not in a time to measure

    def add_energy_head(self, cfg: Config, checkpoint, max_iters: int, **about) -> Config:
        return add_energy_head_3d(cfg, checkpoint, max_iters, **about)

    def write_config(self, config, checkpoint, out, max_iters: int, tuned=None, **about) -> Path:
        return write_energy_config_3d(config, checkpoint, out, max_iters, tuned, **about)

    def about_data(self, data: FitData) -> dict:
        """Usual bottom and height of the objects in the frames to tune on, 50 at most."""
        seen = [data.tune.truth(position) for position in range(min(len(data.tune), FEW_FRAMES))]
        boxes = np.concatenate([each.boxes[~each.neutral] for each in seen])
        if not len(boxes):
            return {}
        return dict(bottom_and_height=np.median(boxes[:, [2, 5]], axis=0).tolist())

    def regressor(self, energy_head: Mapping, num_boxes: int) -> nn.Module:
        return BoxRegressor3D(energy_head, num_boxes)

    # Data.

    def dataset(self, config: Mapping):
        with building("a data set"):
            return DATASETS.build(copy.deepcopy(dict(config)))

    def plain_dataset(self, config: Mapping, pipeline: Sequence[Mapping]) -> dict:
        """The data set inside all wrappers, in test mode, with the steps of the test pipeline.

        Where the training pipeline loads nothing, because the data set makes its frames, the steps
        that load are left out, and the boxes are packed too.
        """
        inner = inner_datasets(config)
        if len(inner) > 1:
            return dict(
                type="ConcatDataset",
                datasets=[self.plain_dataset(each, pipeline) for each in inner],
            )
        (one,) = inner
        made = not any(_loads(step) for step in one.get("pipeline") or [])
        steps = [dict(step) for step in pipeline if not (made and _loads(step))]
        if made:
            for step in steps:
                if type_name(step) == "Pack3DDetInputs":
                    keys = [*step["keys"], "gt_bboxes_3d", "gt_labels_3d"]
                    step["keys"] = list(dict.fromkeys(keys))
        kind = DATASETS.get(one["type"]) if isinstance(one["type"], str) else one["type"]
        usual = isinstance(kind, type) and issubclass(kind, BaseDataset)
        test = {"test_mode": True} if usual else {}
        return {**one, **test, "pipeline": steps}

    def item_set(self, dataset, indices: Sequence[int], cfg: Config) -> FrameSet:
        head = cfg.model.energy_head
        return FrameSet(dataset, indices, head.num_classes, point_cloud_range(cfg))

    def key(self, info: Mapping) -> str:
        return frame_key(info)

    def count(self, dataset, info: Mapping, num_classes: int, part: str) -> int | None:
        found = annotations(dataset, info)
        if found is None:
            return None
        labels = np.asarray(found["gt_labels_3d"]).reshape(-1)
        return int(((labels >= 0) & (labels < num_classes)).sum())

    def gives_boxes(self, sample) -> bool:
        return "gt_instances_3d" in sample and "bboxes_3d" in sample.gt_instances_3d

    def limits(self, cfg: Config, most: int) -> list[str]:
        return []

    # Boxes.

    def view(self, model, data: FitData, index: int):
        return make_frame_view(model, data, index)

    def detect(self, model, item: dict, max_dets: int) -> Detected:
        return detect_frame(model, item, max_dets)

    def refine(self, model, method: Method, frame: Detected):
        return refine_frame(model, method, frame)

    def scores(self, frame: Detected) -> Tensor:
        return frame.sample.pred_instances_3d.scores_3d

    def facts(self, frame: Detected) -> dict:
        return {}

    def records(self, position: int, found, num_classes: int) -> list[dict]:
        return frame_records(found)

    def num_objects(self, items: FrameSet, positions: Sequence[int]) -> int:
        return sum(int((~items.truth(position).neutral).sum()) for position in positions)

    def matched(
        self,
        items: FrameSet,
        positions: Sequence[int],
        records: Sequence[Sequence[dict]],
        num_classes: int,
        max_dets: int,
    ) -> MatchedFrames:
        return MatchedFrames([items.truth(each) for each in positions], records, num_classes)

    def residuals(
        self, items: FrameSet, position: int, frame: Detected, num_classes: int, score_thr: float
    ) -> Tensor:
        records = frame_records(frame.sample.pred_instances_3d)
        return matched_residuals_3d(items.truth(position), records, score_thr)

    # Rivals and priors.

    def fixed_offset(self, offset: Tensor) -> FixedOffset3D:
        return FixedOffset3D(offset)

    def regression_step(self, head: nn.Module, length: float) -> RegressionStep3D:
        return RegressionStep3D(head, length)

    def prior(self, residuals: Tensor) -> tuple[list[float], list[float] | None] | None:
        # Along and across are one number, and have no sign, in coordinates that do not turn.
        spread = spread_3d(residuals)
        return None if spread is None else (spread, None)

    # The page.

    def object_cells(self, items: FrameSet, result: Mapping, cfg: Config) -> list[float]:
        truth = items.truth(result["position"])
        boxes = truth.boxes[~truth.neutral]
        return (np.sqrt(boxes[:, 3] * boxes[:, 4]) / cfg.model.energy_head.cell_size).tolist()

    def reads(self, model, cfg: Config) -> str:
        head = cfg.model.energy_head
        size = f"{head.cell_size:g} m"
        return f"the head reads {' and '.join(model.feature_sources)}, cells of {size}"

    def write_pictures(
        self,
        folder: Path,
        model,
        method: Method,
        items: FrameSet,
        positions: Sequence[int],
        classes: Sequence[str],
        max_dets: int,
    ) -> list[str]:
        return write_frame_pictures(folder, model, method, items, positions, max_dets)

    def commands(self, config: Path, checkpoint: Path, cfg: Config) -> list[str]:
        return [
            "python tools/test.py " + shlex.join([str(config), str(checkpoint)]),
            f"model = mmdet3d.apis.init_model('{config}', '{checkpoint}')",
        ]


def _loads(step: Mapping) -> bool:
    return type_name(step).startswith("Load")
