"""Detections whose uncertainty in pixels follows their boxes."""

from __future__ import annotations

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from .side_uncertainty import covariance_to_side_std

__all__ = ["UncertainInstances"]

_DERIVED = "side_std"


class UncertainInstances(InstanceData):
    """``InstanceData`` with ``box_cov`` (n, 4, 4), from which ``side_std`` (n, 4) follows.

        side_std = covariance_to_side_std(bboxes, box_cov)

    ``box_cov`` is relative to the size of a box, so it stays correct when boxes are rescaled. A
    number in pixels would not: with a mask head, mmdet rescales boxes long after the box head has
    predicted them. Therefore ``side_std`` is computed each time it is read, in the pixels that
    ``bboxes`` have at that time. It cannot be set and is not among ``keys()``, but ``to_dict()``,
    which metrics and dumps receive, contains it.
    """

    @classmethod
    def of(cls, instances: InstanceData) -> UncertainInstances:
        """The same fields, sharing their memory, without a stored ``side_std``."""
        fields = {name: value for name, value in instances.items() if name != _DERIVED}
        return cls(metainfo=instances.metainfo, **fields)

    @property
    def side_std(self) -> Tensor:
        """(n, 4) float32 standard deviations of x1, y1, x2, y2, in the pixels of ``bboxes``."""
        return covariance_to_side_std(torch.as_tensor(self.bboxes), torch.as_tensor(self.box_cov))

    def set_field(self, value, name: str, *args, **kwargs) -> None:
        """mmengine's, except that ``side_std`` is refused."""
        if name == _DERIVED:
            raise AttributeError(
                "side_std follows from bboxes and box_cov; set box_cov, see "
                "ebm_mmdet.models.side_std_to_covariance"
            )
        super().set_field(value, name, *args, **kwargs)

    def __contains__(self, item: str) -> bool:
        return super().__contains__("box_cov" if item == _DERIVED else item)

    def to_dict(self) -> dict:
        """All fields, and ``side_std``."""
        fields = super().to_dict()
        if "box_cov" in fields:
            fields[_DERIVED] = self.side_std
        return fields
