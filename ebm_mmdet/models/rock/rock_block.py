"""The residual auxiliary block of ROCK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmcv.cnn import build_norm_layer
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.model import BaseModule, ModuleDict
from torch import Tensor, nn

from .layers import KAIMING, NORM, conv_norm_relu

__all__ = ["ROCKBlock"]


@MODELS.register_module()
class ROCKBlock(BaseModule):
    """Predicts auxiliary tasks from a map, and adds what they needed back to it.

        e   = encoder(x)                           1 x 1 to M channels, 3 x 3, each with norm + ReLU
        f_t = features of task t, from e           (:class:`AuxiliaryTask`)
        p_t = f_t, averaged: the prediction
        out = ReLU(norm(x + Σ_t decoder_t(f_t)))   decoder: 1 x 1 to C channels, norm, ReLU

    Only what is used is built, so that each parameter gets a gradient. Without fusion there are no
    decoders, and out = x (flat multi-task learning). Without tasks nothing is built, and out = x.

    Args:
        in_channels: C of the map.
        mid_channels: M of the encoding.
        tasks: name -> config of the task without ``in_channels``; the names are those of the losses
            (``loss_<name>``). Each is given ``extra_convs`` and ``norm_cfg`` unless it has its own.
            None is the three tasks of the paper.
        fusion: False is flat multi-task learning.
        extra_convs: further layers in each task, as in the reference implementation; False as in
            the paper.
        norm_cfg: mmcv's; None is batch norm of momentum 0.01.
        init_cfg: mmengine's; None is Kaiming normal.

    Source: Mordan et al., NeurIPS 2018 (Revisiting Multi-Task Learning with ROCK), section 3.
    """

    def __init__(
        self,
        in_channels: int = 2048,
        mid_channels: int = 512,
        tasks: Mapping[str, dict] | None = None,
        fusion: bool = True,
        extra_convs: bool = True,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg or KAIMING)
        norm_cfg = norm_cfg or NORM
        if tasks is None:
            tasks = dict(
                scene=dict(type="SceneTask"),
                depth=dict(type="DepthTask"),
                normals=dict(type="NormalsTask"),
            )
        shared = dict(in_channels=mid_channels, extra_convs=extra_convs, norm_cfg=norm_cfg)
        self.in_channels = in_channels
        # A task that is None, which a config writes to switch an inherited one off, is left out.
        self.tasks = ModuleDict(
            {name: MODELS.build({**shared, **task}) for name, task in tasks.items() if task}
        )
        self.fusion = fusion and len(self.tasks) > 0
        if len(self.tasks):
            self.encoder = nn.Sequential(
                conv_norm_relu(in_channels, mid_channels, 1, norm_cfg=norm_cfg),
                conv_norm_relu(mid_channels, mid_channels, 3, padding=1, norm_cfg=norm_cfg),
            )
        if self.fusion:
            self.decoders = nn.ModuleDict(
                {
                    name: conv_norm_relu(task.feature_channels, in_channels, 1, norm_cfg=norm_cfg)
                    for name, task in self.tasks.items()
                }
            )
            self.fusion_norm = build_norm_layer(norm_cfg, in_channels)[1]

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, C, h, w) -> the map of the same shape that replaces it, and the raw predictions.

        Raises:
            ValueError: the map does not have ``in_channels`` channels.
        """
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f"ROCKBlock(in_channels={self.in_channels}) got a map of {x.shape[1]} channels; "
                "set in_channels to those of the level that the block is put behind"
            )
        predictions: dict[str, Tensor] = {}
        if not len(self.tasks):
            return x, predictions
        encoding, total = self.encoder(x), x
        for name, task in self.tasks.items():
            features = task(encoding)
            predictions[name] = task.predict(features)
            if self.fusion:
                total = total + self.decoders[name](features)
        return self.fusion_norm(total).relu() if self.fusion else x, predictions

    def loss(
        self, predictions: Mapping[str, Tensor], samples: Sequence[DetDataSample]
    ) -> dict[str, Tensor]:
        """``loss_<name>`` of each task: float32 scalars, connected to the graph even if 0."""
        return {
            f"loss_{name}": task.loss(predictions[name], samples)
            for name, task in self.tasks.items()
        }

    def write(self, predictions: Mapping[str, Tensor], samples: Sequence[DetDataSample]) -> None:
        """Write each task's prediction into the data samples."""
        for name, task in self.tasks.items():
            task.write(predictions[name], samples)
