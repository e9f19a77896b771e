"""KITTI's precisions as named values, mmdet3d's names among them, and as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from terminaltables import AsciiTable

from .kitti_average_precision import DIFFICULTIES, KittiPrecision

__all__ = ["Shown", "mmdet3d_thresholds", "overall"]

LABELS = {"bbox": "2D", "bev": "BEV", "3d": "3D"}
STRICT, LOOSE = {"Car": 0.7, "Van": 0.7}, {"Car": 0.5, "Van": 0.5}
OTHER_STRICT, OTHER_LOOSE = 0.5, 0.25


def mmdet3d_thresholds(class_name: str, metric: str = "3d") -> dict[str, float]:
    """The IoU that mmdet3d calls ``strict``, and the ``loose`` one, which is for BEV and 3D."""
    strict = STRICT.get(class_name, OTHER_STRICT)
    loose = LOOSE.get(class_name, OTHER_LOOSE) if metric != "bbox" else strict
    return {"strict": strict, "loose": loose}


class Shown(NamedTuple):
    """What is reported of a :class:`KittiPrecision`, besides what mmdet3d reports."""

    iou_thresholds: tuple[float, ...]
    """For BEV and 3D, of all classes."""
    recall_positions: tuple[int, ...]
    """Numbers of recall positions, out of 11, 40, 41."""

    def all_thresholds(self, classes: Sequence[str]) -> list[float]:
        """Those to evaluate, ascending."""
        of_mmdet3d = {t for name in classes for t in mmdet3d_thresholds(name).values()}
        return sorted(of_mmdet3d | set(self.iou_thresholds))

    def values(self, name: str, result: KittiPrecision) -> dict[str, float]:
        """Values of one class in percent; keys without its name."""
        values = {}
        for positions in sorted({11, 40, *self.recall_positions}):
            ap = result.average_precision(positions)
            for e, metric in enumerate(result.metrics):
                named = []
                if positions in (11, 40):
                    named += mmdet3d_thresholds(name, metric).items()
                if positions in self.recall_positions and metric != "bbox":
                    named += [(f"IoU{t:g}", t) for t in self.iou_thresholds]
                for kind, threshold in named:
                    t = result.iou_thresholds.index(threshold)
                    for d, difficulty in enumerate(DIFFICULTIES):
                        key = f"{LABELS[metric]}_AP{positions}_{difficulty}_{kind}"
                        values[key] = float(ap[e, d, t])
        return values

    def table(self, name: str, result: KittiPrecision) -> str:
        """One row per metric and threshold, one column per number of recall positions."""
        columns = self.recall_positions or (40,)
        rows = [[f"AP of {name}, %", *(f"AP{p}, {' / '.join(DIFFICULTIES)}" for p in columns)]]
        for e, metric in enumerate(result.metrics):
            thresholds = self.iou_thresholds
            if metric == "bbox":
                thresholds = (mmdet3d_thresholds(name, metric)["strict"],)
            for threshold in thresholds:
                t = result.iou_thresholds.index(threshold)
                cells = (result.average_precision(p)[e, :, t] for p in columns)
                rows.append(
                    [
                        f"{LABELS[metric]} at IoU {threshold:.2f}",
                        *(" / ".join(f"{value:.2f}" for value in cell) for cell in cells),
                    ]
                )
        counts = " / ".join(str(n) for n in result.num_objects)
        return f"{AsciiTable(rows).table}\n{name} objects, {' / '.join(DIFFICULTIES)}: {counts}"


def overall(values: Mapping[str, float], prefix: str, classes: Sequence[str]) -> dict[str, float]:
    """Mean over the classes of the strict AP11 and AP40; NaN where no class has objects."""
    first, suffix = f"{prefix}/{classes[0]}_", "_strict"
    means = {}
    for key in values:
        if key.startswith(first) and key.endswith(suffix):
            kind = key[len(first) : -len(suffix)]
            each = np.array([values[f"{prefix}/{name}_{kind}{suffix}"] for name in classes])
            each = each[~np.isnan(each)]
            means[f"{prefix}/Overall_{kind}"] = float(each.mean()) if each.size else float("nan")
    return means
