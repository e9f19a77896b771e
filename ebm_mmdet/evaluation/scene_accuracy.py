"""Accuracy of the predicted type of scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmdet.registry import METRICS

from .auxiliary_metric import AuxiliaryMetric

__all__ = ["SceneAccuracy"]


@METRICS.register_module()
class SceneAccuracy(AuxiliaryMetric):
    """Share of the images whose true scene type is among the k most probable ones.

        top<k> = mean( position of gt_scene.label in pred_scene.ranking < k )

    Reads ``pred_scene.ranking`` (S,) int64, scene types with the most probable first, and
    ``gt_scene.label`` (1,) int64 in [0, S), or negative if it is unknown. Returns, under the prefix
    ``scene``, ``top1`` and ``top5`` in [0, 1] and ``images``, the number of images that they are
    computed from. With k >= S the value is 1 by definition.

    Images without ``gt_scene``, or with a negative label, are left out. Without any image, or if
    the model does not predict scenes, the values are NaN, with a warning.

    Args:
        topk: the numbers k.
        collect_device: mmengine's.
        prefix: mmengine's.

    Raises:
        ValueError: a k is not positive; a label is not in the ranking; or the model predicted
            scenes for some images only.
    """

    default_prefix = "scene"
    task = "scene"

    def __init__(
        self,
        topk: Sequence[int] = (1, 5),
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not topk or min(topk) < 1:
            raise ValueError(f"topk={topk} must be positive numbers, such as (1, 5)")
        self.topk = tuple(topk)
        self.names = tuple(f"top{k}" for k in self.topk)

    def has_truth(self, truth: dict) -> bool:
        """Whether the scene type is known, that is, not negative; as for ``SceneTask``."""
        return int(truth["label"]) >= 0

    def measure(self, prediction: dict, truth: dict) -> np.ndarray:
        """Position (1,) of the true scene type in the ranking."""
        ranking = prediction["ranking"].cpu().numpy()
        label = int(truth["label"])
        position = np.flatnonzero(ranking == label)
        if len(position) != 1:
            raise ValueError(
                f"gt_scene.label is {label}, which must occur once among the {len(ranking)} scene "
                "types that the model ranks; the data set's metainfo.scene_types and the model's "
                "number of scene types must agree"
            )
        return position.astype(float)

    def values(self, measurements: list[np.ndarray]) -> dict[str, float]:
        """See the class."""
        position = np.concatenate(measurements)
        return {name: float((position < k).mean()) for name, k in zip(self.names, self.topk)}
