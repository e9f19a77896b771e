"""Images and their boxes, as a fit needs them; see :class:`.kind.Kind`."""

from __future__ import annotations

import copy
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from torch import Tensor, nn

from ...datasets import use_checked_annotations
from ...energy import fit_residual_std
from ...evaluation import MatchedDetections
from ...evaluation.average_precision import METRICS
from ...models.pixels import check_enlarge
from ..box_limits import too_few_boxes
from ..config_faults import building
from ..config_text import Noted
from ..energy_config import add_energy_head, refuse_3d, write_energy_config
from ..residuals import matched_residuals
from ..training_flips import flips_of
from . import detections, views
from .data import FitData
from .detections import Detected, Method, coco_records
from .image_set import ImageSet, image_key
from .items import refuse_without_polygons
from .pictures import write_pictures
from .rivals import BoxRegressor, FixedOffset, RegressionStep

__all__ = ["Images"]


class Images:
    """See :class:`.kind.Kind`."""

    noun, dim = "image", 4
    headings: ClassVar = {name: {"IoU_TP": "mean IoU"}.get(name, name) for name in METRICS}
    high, precise_iou = "AP90", 92.0
    delivered: ClassVar = {"clip_boxes": Noted("all", "every box, as it was judged")}
    described = (
        "Mean IoU is that of boxes that match an object at IoU 0.5. All boxes are clipped to the "
        "image."
    )

    def __init__(self, enlarge: int = 1) -> None:
        check_enlarge(enlarge)
        self.enlarge = enlarge
        # Left out where it is 1, so that folders of earlier versions go on.
        self.settings = {} if enlarge == 1 else {"enlarge": enlarge}

    def refuse(self, cfg: Config) -> None:
        refuse_3d(cfg)

    def begin(self, cfg: Config) -> None:
        use_checked_annotations()

    def add_energy_head(self, cfg: Config, checkpoint, max_iters: int, **about) -> Config:
        return add_energy_head(cfg, checkpoint, max_iters, **about, **self.settings)

    def write_config(self, config, checkpoint, out, max_iters: int, tuned=None, **about) -> Path:
        about |= self.settings
        return write_energy_config(config, checkpoint, out, max_iters, tuned, **about)

    def about_data(self, data: FitData) -> dict:
        return dict(object_size=data.object_size(), max_dets=data.max_dets_beyond_coco)

    def regressor(self, energy_head: Mapping, num_boxes: int) -> nn.Module:
        return BoxRegressor(energy_head, num_boxes)

    # Data.

    def dataset(self, config: Mapping):
        with building("a data set"):
            return DATASETS.build(copy.deepcopy(config))

    def plain_dataset(self, config: Mapping, pipeline: Sequence[Mapping]) -> dict:
        if "datasets" in config:
            parts = [self.plain_dataset(each, pipeline) for each in config["datasets"]]
            return {**config, "datasets": parts}
        if "dataset" in config:
            return {**config, "dataset": self.plain_dataset(config["dataset"], pipeline)}
        return {**config, "pipeline": list(pipeline)}

    def item_set(self, dataset, indices: Sequence[int], cfg: Config) -> ImageSet:
        return ImageSet(dataset, indices)

    def key(self, info: Mapping) -> str:
        return image_key(info)

    def count(self, dataset, info: Mapping, num_classes: int, part: str) -> int | None:
        instances = info.get("instances")
        if instances is None:
            return None
        refuse_without_polygons(dataset, info, f"{image_key(info)} of the {part} data")
        usable = [one for one in instances if "bbox" in one and not one.get("ignore_flag", 0)]
        labels = [one["bbox_label"] for one in usable]
        if labels and not 0 <= min(labels) <= max(labels) < num_classes:
            raise ValueError(
                f"{image_key(info)} of the {part} data has label {max(labels)}, but the detector "
                f"has {num_classes} classes; set metainfo.classes of the data set to the detector's"
            )
        return len(usable)

    def gives_boxes(self, sample) -> bool:
        return "gt_instances" in sample and "bboxes" in sample.gt_instances

    def limits(self, cfg: Config, most: int) -> list[str]:
        notes = []
        if most > 100:
            notes.append(
                f"Images have up to {most} objects: more than COCO's 100 boxes of an image count."
            )
        return notes + too_few_boxes(cfg.model.detector, most)

    # Boxes.

    def view(self, model, data: FitData, index: int):
        return views.make_view(model, data, index)

    def detect(self, model, item: dict, max_dets: int) -> Detected:
        return detections.detect(model, item, max_dets)

    def refine(self, model, method: Method, found: Detected):
        return detections.refine(model, method, found)

    def scores(self, found: Detected) -> Tensor:
        return found.sample.pred_instances.scores

    def facts(self, found: Detected) -> dict:
        scale = found.sample.metainfo.get("scale_factor", (1.0, 1.0))
        return dict(scale_factor=[float(x) for x in scale])

    def records(self, position: int, found, num_classes: int) -> list[dict]:
        return coco_records(position, found, num_classes)

    def num_objects(self, items: ImageSet, positions: Sequence[int]) -> int:
        return sum(len(items.truth(position)[0]) for position in positions)

    def matched(
        self,
        items: ImageSet,
        positions: Sequence[int],
        records: Sequence[Sequence[dict]],
        num_classes: int,
        max_dets: int,
    ) -> MatchedDetections:
        truth = items.coco(sorted(positions), num_classes)
        return MatchedDetections(truth, [one for each in records for one in each], max_dets)

    def residuals(
        self, items: ImageSet, position: int, found: Detected, num_classes: int, score_thr: float
    ) -> Tensor:
        boxes = found.sample.pred_instances.cpu()
        boxes.bboxes = boxes.bboxes.float()
        sample = DetDataSample(metainfo=dict(img_id=position), pred_instances=boxes)
        truth = items.coco([position], num_classes)
        residuals = matched_residuals(truth, [sample], list(range(1, num_classes + 1)), score_thr)
        return residuals[residuals.isfinite().all(1)]

    # Rivals and priors.

    def fixed_offset(self, offset: Tensor) -> FixedOffset:
        return FixedOffset(offset)

    def regression_step(self, head: nn.Module, length: float) -> RegressionStep:
        return RegressionStep(head, length)

    def prior(self, residuals: Tensor) -> tuple[list[float], list[float] | None] | None:
        # A spread of zero, of a detector whose boxes are the annotations, gives no prior.
        if not (residuals != 0).any(0).all():
            return None
        std = fit_residual_std(residuals, robust=None)
        return std.tolist(), residuals.median(0).values.tolist()

    # The page.

    def object_cells(self, items: ImageSet, result: Mapping, cfg: Config) -> list[float]:
        boxes, _, ignored = items.truth(result["position"])
        boxes = boxes[~ignored]
        scale = math.sqrt(math.prod(result["scale_factor"]))
        area = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
        return (scale * np.sqrt(area) / min(cfg.model.energy_head.strides)).tolist()

    def reads(self, model, cfg: Config) -> str:
        strides = ", ".join(map(str, cfg.model.energy_head.strides))
        return f"the head reads {' and '.join(model.feature_sources)}, strides {strides}"

    def write_pictures(
        self,
        folder: Path,
        model,
        method: Method,
        items: ImageSet,
        positions: Sequence[int],
        classes: Sequence[str],
        max_dets: int,
    ) -> list[str]:
        return write_pictures(folder, model, method, items, positions, classes, max_dets)

    def commands(self, config: Path, checkpoint: Path, cfg: Config) -> list[str]:
        both = shlex.join([str(config), str(checkpoint)])  # paths may have blanks
        test = f"python tools/test.py {both}"
        lines = [test, f"python -m ebm_mmdet predict {both} images/ --out-dir out"]
        flips = flips_of(cfg)[1:]
        if flips:
            lines += [
                f"# Often more precise, for {len(flips) + 1} times the time: the mean of f over "
                "mirror images too.",
                f'{test} --cfg-options "model.flips=[{",".join(flips)}]"',
            ]
        return lines
