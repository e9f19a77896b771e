"""Detections whose uncertainty in pixels follows their boxes."""

from __future__ import annotations

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from .side_uncertainty import covariance_to_side_std, side_lengths

__all__ = ["UncertainInstances"]

_DERIVED = {"side_std": "box_cov", "side_interval": "interval_reach"}
"""Fields that are computed when they are read, and what from."""


class UncertainInstances(InstanceData):
    """``InstanceData`` with uncertainties relative to the size of a box, and in pixels.

        side_std      = covariance_to_side_std(bboxes, box_cov)
        side_interval = bboxes - reach[..., 0] * size, bboxes + reach[..., 1] * size

    ``box_cov`` (n, 4, 4) and ``interval_reach`` (n, 4, 2) are relative to the size of a box, so
    they stay correct when boxes are rescaled. A number in pixels would not: with a mask head, mmdet
    rescales boxes long after the box head has predicted them. Therefore ``side_std`` (n, 4) and
    ``side_interval`` (n, 4, 2) are computed each time they are read, in the pixels that ``bboxes``
    have at that time. They cannot be set and are not among ``keys()``, but ``to_dict()``, which
    metrics and dumps receive, contains them.
    """

    @classmethod
    def of(cls, instances: InstanceData) -> UncertainInstances:
        """The same fields, sharing their memory, without those that are computed."""
        fields = {name: value for name, value in instances.items() if name not in _DERIVED}
        return cls(metainfo=instances.metainfo, **fields)

    @property
    def side_std(self) -> Tensor:
        """(n, 4) float32 standard deviations of x1, y1, x2, y2, in the pixels of ``bboxes``."""
        return covariance_to_side_std(torch.as_tensor(self.bboxes), torch.as_tensor(self.box_cov))

    @property
    def side_interval(self) -> Tensor:
        """(n, 4, 2) float32 lower and upper ends of x1, y1, x2, y2, in the pixels of ``bboxes``."""
        boxes = torch.as_tensor(self.bboxes).float()
        reach = torch.as_tensor(self.interval_reach) * side_lengths(boxes)[..., None]
        below, above = reach.unbind(-1)
        return torch.stack((boxes - below, boxes + above), dim=-1)

    def set_field(self, value, name: str, *args, **kwargs) -> None:
        """mmengine's, except that what is computed is refused."""
        if name in _DERIVED:
            raise AttributeError(
                f"{name} follows from bboxes and {_DERIVED[name]}; set {_DERIVED[name]}, see "
                "ebm_mmdet.models.side_std_to_covariance and UncertainInstances"
            )
        super().set_field(value, name, *args, **kwargs)

    def __contains__(self, item: str) -> bool:
        return super().__contains__(_DERIVED.get(item, item))

    def to_dict(self) -> dict:
        """All fields, and those that are computed."""
        fields = super().to_dict()
        for name, source in _DERIVED.items():
            if source in fields:
                fields[name] = getattr(self, name)
        return fields
