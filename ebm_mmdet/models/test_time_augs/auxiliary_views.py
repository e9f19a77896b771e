"""Merge the predicted scenes, depths and normals of several views of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmengine.structures import LabelData, PixelData
from torch import Tensor

__all__ = ["merge_auxiliary_views"]


def merge_auxiliary_views(views: Sequence[DetDataSample]) -> None:
    """Average the predictions of ROCK's tasks over the views, and write them into the first one.

    Maps are turned back, a mirrored normal is mirrored back (x changes its sign, or y), and all get
    the first view's resolution:

        scene     mean of the probabilities
        depth     geometric mean, because log-depth is what is learned
        normals   mean, then length 1

    A prediction that some view lacks is left as the first view has it.

    Args:
        views: data samples of one image, with ``flip`` and ``flip_direction``; the first of them is
            changed.
    """
    first = views[0]
    if all("pred_scene" in view for view in views):
        scores = torch.stack([view.pred_scene.scores for view in views]).mean(0)
        ranking = scores.argsort(descending=True, stable=True)
        first.pred_scene = LabelData(scores=scores, ranking=ranking)
    if all("pred_depth" in view for view in views):
        maps = [_turned_back(view.pred_depth.depth.log(), view) for view in views]
        first.pred_depth = PixelData(depth=_mean(maps).exp())
    if all("pred_normals" in view for view in views):
        maps = [
            _turned_back(view.pred_normals.normals, view) * _signs(view.pred_normals.normals, view)
            for view in views
        ]
        first.pred_normals = PixelData(normals=F.normalize(_mean(maps), dim=0))


def _axes(view: DetDataSample) -> list[int]:
    """Axes of a map (c, h, w) along which the view is mirrored."""
    if not view.metainfo.get("flip"):
        return []
    return {"horizontal": [2], "vertical": [1], "diagonal": [1, 2]}[view.metainfo["flip_direction"]]


def _turned_back(values: Tensor, view: DetDataSample) -> Tensor:
    return values.flip(_axes(view))


def _signs(normals: Tensor, view: DetDataSample) -> Tensor:
    """(3, 1, 1): -1 for the components that the mirroring has changed."""
    signs = torch.ones(3, 1, 1).to(normals)
    for axis in _axes(view):
        signs[2 - axis] = -1
    return signs


def _mean(maps: Sequence[Tensor]) -> Tensor:
    """The mean of maps (c, h, w), at the resolution of the first."""
    size = maps[0].shape[-2:]
    return torch.stack(
        [
            each if each.shape[-2:] == size else F.interpolate(each[None], size, mode="bilinear")[0]
            for each in maps
        ]
    ).mean(0)
