"""Random brightness, contrast, saturation and hue."""

from __future__ import annotations

import random

import mmcv
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmdet.registry import TRANSFORMS

__all__ = ["ROCKColorJitter"]

_ADJUST = {
    "brightness": mmcv.adjust_brightness,
    "contrast": mmcv.adjust_contrast,
    "saturation": mmcv.adjust_color,
    "hue": mmcv.adjust_hue,
}


@TRANSFORMS.register_module()
class ROCKColorJitter(BaseTransform):
    """Change brightness, contrast, saturation and hue by random factors, in random order.

    This is the distribution of torchvision's ``ColorJitter``, by mmcv's functions. (mmdet's
    ``PhotoMetricDistortion`` adds to the brightness and applies each change half of the time.)

    Args:
        brightness: b; the factor is uniform in [1 - b, 1 + b].
        contrast: Likewise.
        saturation: Likewise.
        hue: The shift is uniform in [-hue, hue], as share of the circle of hues, at most 0.5.

    Raises:
        ValueError: A value is negative, or above 1, or above 0.5 for the hue.
    """

    def __init__(
        self,
        brightness: float = 0.15,
        contrast: float = 0.25,
        saturation: float = 0.25,
        hue: float = 0.05,
    ) -> None:
        self.amounts = {
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
            "hue": hue,
        }
        for name, amount in self.amounts.items():
            most = 0.5 if name == "hue" else 1
            if not 0 <= amount <= most:
                raise ValueError(f"{name} is {amount}; expected a number from 0 to {most}")

    @cache_randomness
    def _choose(self) -> list[tuple[str, float]]:
        """The changes in their order, each with its factor, or its shift for the hue."""
        names = [name for name, amount in self.amounts.items() if amount > 0]
        random.shuffle(names)
        return [
            (name, (name != "hue") + random.uniform(-self.amounts[name], self.amounts[name]))
            for name in names
        ]

    def transform(self, results: dict) -> dict:
        """Change ``img``, uint8 BGR."""
        image = results["img"]
        for name, value in self._choose():
            # A shift of hues that is symmetric is the same for BGR as for RGB.
            image = _ADJUST[name](image, value)
        results["img"] = image
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in self.amounts.items())})"
