"""What the metrics of auxiliary tasks share: one result per image, missing truths included."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from torch import Tensor

__all__ = ["AuxiliaryMetric", "resize_to"]

NO_TRUTH, NO_PREDICTION = "no truth", "no prediction"


class AuxiliaryMetric(BaseMetric):
    """Base of a metric that compares ``pred_<task>`` of a data sample with its ``gt_<task>``.

    Images without the truth of this task are normal in data with missing modalities and are left
    out. If nothing remains, all values are NaN and a warning says why. A derived class has

    - ``task`` and ``names``, the keys of its values;
    - ``measure(prediction, truth)``, the measurement of one image as a float64 array, in which a
      row without valid content may be empty;
    - ``has_truth(truth)``, if a truth that is there may still say that nothing is known;
    - ``values(measurements)``, from the measurements of all images to the values of ``names``.

    Every image adds exactly one entry to ``results``, because mmengine's collection over several
    processes interleaves the entries of the processes and cuts the list to the size of the set.
    """

    task: str
    names: tuple[str, ...]

    def has_truth(self, truth: dict) -> bool:
        """Whether the truth of an image says anything."""
        return True

    def measure(self, prediction: dict, truth: dict) -> np.ndarray:
        """Measurement of one image."""
        raise NotImplementedError

    def values(self, measurements: list[np.ndarray]) -> dict[str, float]:
        """Values of ``names`` from the measurements of images that have the truth."""
        raise NotImplementedError

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Measure every image of a batch.

        Args:
            data_batch: unused.
            data_samples: data samples as dicts; see the class for the fields.
        """
        for sample in data_samples:
            truth, found = sample.get(f"gt_{self.task}"), sample.get(f"pred_{self.task}")
            if truth is None or not self.has_truth(truth):
                self.results.append(NO_TRUTH)
            elif found is None:
                self.results.append(NO_PREDICTION)
            else:
                self.results.append(self.measure(found, truth))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Values over all images; see the class.

        Args:
            results: one entry per image, as :meth:`process` stores them.

        Raises:
            ValueError: the model predicted this task for some images only.
        """
        measured = [entry for entry in results if not isinstance(entry, str)]
        missing = [entry for entry in results if isinstance(entry, str)]
        unpredicted = missing.count(NO_PREDICTION)
        if measured and unpredicted:
            raise ValueError(
                f"pred_{self.task} is missing in {unpredicted} of {unpredicted + len(measured)} "
                f"images that have gt_{self.task}; the model must predict it for all or for none"
            )
        usable = [entry for entry in measured if entry.size]
        if not usable:
            if unpredicted:
                reason = f"the model does not predict pred_{self.task}"
            elif measured:
                reason = f"gt_{self.task} has no valid content in any image"
            else:
                reason = f"no image has gt_{self.task}"
            return self._nothing(f"{reason}: there is nothing to evaluate.")
        undefined = sum(bool(np.isnan(entry).any()) for entry in usable)
        if undefined:
            return self._nothing(f"pred_{self.task} is not finite in {undefined} images.")
        return {**self.values(usable), "images": len(usable)}

    def _nothing(self, reason: str) -> dict[str, float]:
        MMLogger.get_current_instance().warning(
            f"{type(self).__name__}: {reason} Its values are NaN."
        )
        return {**dict.fromkeys(self.names, math.nan), "images": 0}


def resize_to(maps: Tensor, shape: Sequence[int], stride: int | None = None) -> Tensor:
    """Nearest resize of maps (C, H, W) to (C, h, w), pixel centres on pixel centres.

    out[:, i, j] = maps[:, floor((i + 1/2) H / h), floor((j + 1/2) W / w)]

    Args:
        maps: (C, H, W), a truth.
        shape: (h, w), of the prediction.
        stride: ``stride`` of the truth's metainfo, if it has one.

    Raises:
        ValueError: the truth was made with a stride, and no whole number of its pixels is one pixel
            of the prediction, or the reverse: the two then end at different places of the image.
    """
    sides = list(zip(maps.shape[-2:], shape))
    if stride and any(max(pair) % max(1, min(pair)) for pair in sides):
        raise ValueError(
            f"the truth was made by AuxiliaryTargets(stride={stride}) and has "
            f"{tuple(maps.shape[-2:])} cells, the prediction {tuple(shape)}: they cover different "
            "parts of the image. Leave AuxiliaryTargets out of the pipeline of validation and "
            "test, or use images whose sides are multiples of the network's stride"
        )
    if tuple(maps.shape[-2:]) == tuple(shape):
        return maps
    if maps.dtype == torch.bool:
        return resize_to(maps.to(torch.uint8), shape).bool()
    return F.interpolate(maps[None], size=tuple(shape), mode="nearest-exact")[0]
