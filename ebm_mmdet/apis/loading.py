"""mmdet's ``init_detector`` for configs of our detectors."""

from __future__ import annotations

import os

from mmdet.apis import init_detector as _init_detector
from mmengine.config import Config
from torch import nn

__all__ = ["init_detector"]


def init_detector(
    config: str | os.PathLike | Config,
    checkpoint: str | None = None,
    palette: str = "none",
    device: str = "cuda:0",
    cfg_options: dict | None = None,
) -> nn.Module:
    """The ``init_detector`` of mmdet, for any config of this package.

    mmdet 3.3 looks for ``model.backbone`` unless ``cfg_options`` are given. A config without it,
    such as one of an ``EBMDetector`` that lacks ``backbone=dict()``, can only be loaded so.
    """
    return _init_detector(config, checkpoint, palette, device, cfg_options or {})
