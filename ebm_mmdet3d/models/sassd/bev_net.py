"""The 2D network of SA-SSD on its bird's-eye-view map."""

from __future__ import annotations

from mmcv.cnn import ConvModule
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor

__all__ = ["SASSDBEVNet"]


@MODELS.register_module()
class SASSDBEVNet(BaseModule):
    """Convolutions at one scale: ``conv0`` to ``conv6`` are 3 x 3, ``conv7`` is 1 x 1.

    Each is followed by batch normalisation and ReLU. Boxes are proposed from ``conv7``; both the
    part-sensitive warping and the energy head read ``conv6``, which is a separate module so that
    ``EBM3DDetector(feature_source='backbone.conv6')`` can use its output.

    Args:
        in_channels: channels of the input map.
        channels: output channels of all convolutions.
        num_convs: number of 3 x 3 convolutions.
        norm_cfg: normalisation.
        init_cfg: mmengine's.

    Source: He et al., CVPR 2020, and its released code.
    """

    def __init__(
        self,
        in_channels: int = 320,
        channels: int = 256,
        num_convs: int = 7,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        norm_cfg = norm_cfg or dict(type="BN", eps=1e-3, momentum=0.01)
        self.num_convs = num_convs
        for i in range(num_convs + 1):
            kernel = 3 if i < num_convs else 1
            conv = ConvModule(in_channels, channels, kernel, padding=kernel // 2, norm_cfg=norm_cfg)
            self.add_module(f"conv{i}", conv)
            in_channels = channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> the map for proposals and the one behind the last 3 x 3 convolution."""
        for i in range(self.num_convs):
            x = self.get_submodule(f"conv{i}")(x)
        return self.get_submodule(f"conv{self.num_convs}")(x), x
