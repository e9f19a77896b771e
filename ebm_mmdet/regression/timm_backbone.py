"""Backbones of timm by name, where it is installed."""

from __future__ import annotations

from importlib.util import find_spec

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor

__all__ = ["TimmBackbone"]


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """Feature maps of any model of timm that offers ``features_only``.

    Args:
        model_name: name of the model, see ``timm.list_models()``.
        pretrained: download weights, which must be allowed and possible.
        **kwargs: further arguments of ``timm.create_model``, such as ``out_indices``.

    Raises:
        ImportError: timm is not installed.
    """

    def __init__(self, model_name: str, pretrained: bool = False, **kwargs) -> None:
        super().__init__()
        self.pretrained = bool(pretrained)  # FreezeBackboneHook asks whether weights were loaded
        if find_spec("timm") is None:
            raise ImportError(
                f"backbone {model_name!r} needs timm, which is not installed: `pip install timm`, "
                "or choose a backbone of mmdet, such as type='ResNet'."
            )
        import timm

        self.model = timm.create_model(
            model_name, pretrained=pretrained, features_only=True, **kwargs
        )

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) -> maps (N, C, h, w) of every level, the coarsest last."""
        maps = self.model(inputs)
        return (maps,) if isinstance(maps, Tensor) else tuple(maps)
