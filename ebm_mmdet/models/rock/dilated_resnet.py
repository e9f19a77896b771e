"""ResNet whose dilated stages start as torchvision's do."""

from __future__ import annotations

from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS
from torch import nn

__all__ = ["TorchvisionDilatedResNet"]


@MODELS.register_module()
class TorchvisionDilatedResNet(ResNet):
    """mmdet's ``ResNet``, in which a dilation starts at the second block of its stage.

    mmdet dilates each 3 x 3 convolution of a stage. In torchvision's
    ``replace_stride_with_dilation`` the first block keeps the dilation of the stage before. Shapes
    and weights are the same, outputs are not: a checkpoint that was trained with one of them needs
    it. Arguments are those of ``ResNet``.
    """

    def make_res_layer(self, **kwargs) -> nn.Sequential:
        """Build a stage; mmdet calls this method for one after another."""
        stage = super().make_res_layer(**kwargs)
        dilation = kwargs["dilation"]
        before = self.dilations[len(self.res_layers) - 1] if self.res_layers else 1
        for module in stage[0].modules():
            dilated = getattr(module, "dilation", None) == (dilation, dilation) != (1, 1)
            if isinstance(module, nn.Conv2d) and dilated:
                module.dilation = module.padding = (before, before)
        return stage
