"""The model of image regression: backbone, pooling, head."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import torch
from mmdet.registry import MODELS
from mmengine.logging import print_log
from mmengine.model import BaseModel, BaseModule
from torch import Tensor

from .data_sample import RegressionDataSample
from .heads.regression_head import PredictionSettings, RegressionHead

__all__ = ["ImageRegressor", "PoolNeck"]


@MODELS.register_module()
class PoolNeck(BaseModule):
    """Pool one feature map over all its cells: maps (N, C, H, W) -> features (N, C).

    Use the sum to count things, because it grows with their number, and the mean otherwise. A
    backbone that gives features (N, C) itself, such as a transformer, is passed through.

    Args:
        mode: ``"mean"`` or ``"sum"``.
        level: which of the backbone's maps.

    Raises:
        ValueError: the mode is unknown.
    """

    def __init__(self, mode: Literal["mean", "sum"] = "mean", level: int = -1) -> None:
        super().__init__()
        if mode not in ("mean", "sum"):
            raise ValueError(f"mode={mode!r} is unknown; use 'mean' or 'sum'.")
        self.mode, self.level = mode, level

    def forward(self, maps: Tensor | Sequence[Tensor]) -> Tensor:
        """A map, or the maps of all levels, -> (N, C)."""
        x = maps if isinstance(maps, Tensor) else maps[self.level]
        if x.dim() == 2:
            return x
        # A sum over many cells does not fit into float16.
        x = x.flatten(2).float()
        return x.sum(2) if self.mode == "sum" else x.mean(2)


@MODELS.register_module()
class ImageRegressor(BaseModel):
    """From images to numbers and to densities of numbers.

        features h = neck(backbone(images));   head(h) -> losses or predictions

    Any backbone of mmdet works, and any of mmpretrain or timm where these are installed
    (``type='mmpretrain.ResNet'``, ``type='TimmBackbone'``).

    Images of different sizes in one batch are padded to the largest, and the neck pools over the
    padding too: predictions then depend on the other images of the batch. A warning says so once.

    Args:
        backbone: config of the backbone; it gives maps (N, C, H, W), one or several.
        head: config of a :class:`~ebm_mmdet.regression.RegressionHead`.
        neck: config of the neck, :class:`PoolNeck` by default.
        test_cfg: arguments of :class:`~ebm_mmdet.regression.PredictionSettings`.
        train_cfg: must be empty, because nothing reads it.
        data_preprocessor: config, usually mmengine's ``ImgDataPreprocessor``.
        init_cfg: mmengine's.

    Raises:
        ImportError: the backbone belongs to a package that is not installed.
        TypeError, ValueError: a setting in ``test_cfg`` is unknown or outside its range.
    """

    def __init__(
        self,
        backbone: dict,
        head: dict,
        neck: dict | None = None,
        test_cfg: dict | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if train_cfg:
            raise ValueError(f"train_cfg={dict(train_cfg)} has no meaning here; remove it.")
        _check_installed(str(backbone.get("type", "")))
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck or dict(type="PoolNeck"))
        self.head: RegressionHead = MODELS.build(head)
        self.settings = PredictionSettings(**(test_cfg or {}))

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Features h (N, C) of images (N, 3, H, W)."""
        h = self.neck(self.backbone(inputs))
        if h.dim() != 2 or h.shape[1] != self.head.in_channels:
            raise ValueError(
                f"backbone and neck give features of shape {tuple(h.shape)}; expected "
                f"(N, {self.head.in_channels}): set head.in_channels to their width."
            )
        return h

    def forward(
        self,
        inputs: Tensor,
        data_samples: Sequence[RegressionDataSample] | None = None,
        mode: str = "tensor",
    ) -> Tensor | dict[str, Tensor] | list[RegressionDataSample]:
        """Features, losses or predictions, as in mmpretrain.

        Args:
            inputs: (N, 3, H, W) images as the preprocessor returns them.
            data_samples: N, needed for ``"loss"``.
            mode: ``"tensor"`` for features (N, C), ``"loss"``, or ``"predict"``.

        Raises:
            ValueError: the mode is unknown, or labels are missing.
        """
        if data_samples:
            report_padding(self, data_samples)
        if mode == "tensor":
            return self.extract_feat(inputs)
        if mode == "loss":
            return self.head.loss(self.extract_feat(inputs), data_samples or [])
        if mode == "predict":
            return self.head.predict(self.extract_feat(inputs), data_samples, self.settings)
        raise ValueError(f"mode={mode!r} is unknown; use 'tensor', 'loss' or 'predict'.")

    @torch.no_grad()
    def log_prob(self, inputs: Tensor, y: Tensor) -> Tensor:
        """Log-density (N, S) at labels y (N, S, D) or (S, D), for pictures of the density.

        In nats, in the units of the labels, normalised over the declared ranges.
        """
        y = y.expand(len(inputs), -1, -1) if y.dim() == 2 else y
        return self.head.log_prob(self.extract_feat(inputs), y, self.settings)


def report_padding(model: BaseModel, data_samples: Sequence[RegressionDataSample]) -> None:
    """Warn, once for each model, if the images of a batch differ in size.

    Args:
        model: whose batch it is.
        data_samples: those with ``img_shape`` in their metainfo are compared.
    """
    known = (sample.metainfo.get("img_shape") for sample in data_samples)
    shapes = sorted({tuple(shape[:2]) for shape in known if shape is not None})
    if len(shapes) < 2 or getattr(model, "_told_of_padding", False):
        return
    model._told_of_padding = True
    (height, width), (other_height, other_width) = shapes[0], shapes[-1]
    print_log(
        f"a batch has images of {len(shapes)} sizes, such as {width} x {height} and {other_width} "
        f"x {other_height} pixels: smaller ones are padded, and predictions depend on the other "
        "images of the batch. Put dict(type='Resize', scale=(width, height)) into the pipelines, "
        "or predict with batch_size=1",
        "current",
        level=30,
    )


def _check_installed(name: str) -> None:
    scope, _, rest = name.rpartition(".")
    if scope == "mmpretrain" and find_spec("mmpretrain") is None:
        raise ImportError(
            f"backbone type {name!r} needs mmpretrain, which is not installed: "
            f"`pip install mmpretrain`, or choose one of mmdet, such as type='{rest}'."
        )
