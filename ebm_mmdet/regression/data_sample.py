"""What belongs to one image of a regression."""

from __future__ import annotations

from mmengine.structures import BaseDataElement

__all__ = ["RegressionDataSample"]


class RegressionDataSample(BaseDataElement):
    """Target and predictions of one image, raw units; any of them may be absent."""
