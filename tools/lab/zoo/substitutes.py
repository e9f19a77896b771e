"""Stand-ins for what mmdet's zoo needs and a plain machine lacks, so that the rest can be tried.

mmcv has some operators for GPUs only. On a CPU they are replaced by the same function in plain
PyTorch; a result names those that were used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["carafe", "complete", "masked_conv2d", "on_cpu", "plain_norms"]

# As attributes of mmcv.ops these names are functions.
CARAFE, MASKED_CONV = (import_module(f"mmcv.ops.{name}") for name in ("carafe", "masked_conv"))


def carafe(
    features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> Tensor:
    """Content-aware reassembly of features: each cell is a weighted sum of its neighbours below.

    Args:
        features: (N, C, H, W).
        masks: (N, groups * kernel_size ** 2, sH, sW) weights, with s = ``scale_factor``.
        kernel_size: odd number of cells along each side of the neighbourhood.
        group_size: number of groups of channels, each with weights of its own.
        scale_factor: s.

    Returns:
        (N, C, sH, sW).

    Source: Wang et al., CARAFE, ICCV 2019, equation 3.
    """
    number, channels, height, width = features.shape
    around = functional.unfold(features, kernel_size, padding=kernel_size // 2)
    around = around.view(number, channels * kernel_size**2, height, width)
    around = around.repeat_interleave(scale_factor, 2).repeat_interleave(scale_factor, 3)
    shape = (number, group_size, -1, kernel_size**2, *masks.shape[2:])
    weights = masks.view(number, group_size, 1, kernel_size**2, *masks.shape[2:])
    return (around.reshape(shape) * weights).sum(3).flatten(1, 2)


def masked_conv2d(
    features: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor,
    padding: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
) -> Tensor:
    """A convolution (N, C, H, W), with 0 where ``mask`` (N, H, W) is not positive."""
    result = functional.conv2d(features, weight, bias, stride, padding)
    return torch.where(mask[:, None] > 0, result, torch.zeros_like(result))


@contextmanager
def on_cpu() -> Iterator[set[str]]:
    """Replace mmcv's operators without a CPU version; yields the names of those that have run."""
    used: set[str] = set()

    def noted(function):
        def run(*arguments):
            used.add(function.__name__)
            return function(*arguments)

        return run

    with (
        mock.patch.object(CARAFE, "carafe", noted(carafe)),
        mock.patch.object(MASKED_CONV, "masked_conv2d", noted(masked_conv2d)),
    ):
        yield used


def plain_norms(config) -> list[str]:
    """Put ``BN`` for ``MMSyncBN`` in a model's config; returns a clause if there was one.

    The latter cannot be built outside of a distributed training. Parameters, and what it computes
    in eval mode, are the same.
    """
    found = []
    if isinstance(config, Mapping):
        if config.get("type") == "MMSyncBN":
            config["type"] = "BN"
            found = ["with BN for MMSyncBN, which needs several processes"]
        for value in config.values():
            found = plain_norms(value) or found
    elif isinstance(config, (list, tuple)):
        for value in config:
            found = plain_norms(value) or found
    return found


def complete(detector: nn.Module) -> list[str]:
    """Give a detector what mmdet 3.3 forgot, or takes from torchvision; returns a clause for each.

    ``SSDHead`` predicts with ``loss_cls``, which it has not; None means the usual one. mmcv's
    ``RoIAlign`` computes the same as torchvision's.
    """
    pooled = [each for each in detector.modules() if getattr(each, "use_torchvision", False)]
    for each in pooled:
        each.use_torchvision = False
    done = ["with mmcv's RoIAlign for torchvision's"] if pooled else []
    head = getattr(detector, "bbox_head", None)
    if type(head).__name__ == "SSDHead" and not hasattr(head, "loss_cls"):
        head.loss_cls = None
        done.append("with bbox_head.loss_cls = None, which mmdet's SSD lacks")
    return done
