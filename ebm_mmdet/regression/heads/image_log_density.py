"""The energy of labels, bound to the features of some images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...energy import LogDensityFn, MixtureDensity
from ..densities import WrappedMixture
from ..target_codec import TargetCodec

if TYPE_CHECKING:
    from .ebm_head import EBMRegressionHead

__all__ = ["ImageLogDensity", "OnSupport", "ProposalImageLogDensity", "ResidualImageLogDensity"]


class ImageLogDensity:
    """``LogDensityFn`` of N images: standardised labels z (N, S, D) -> f (N, S), float32.

    :meth:`EBMRegressionHead.log_density_fn` makes it. Where nothing needs a gradient, points are
    evaluated in chunks, so that a grid of any size needs little memory.

    Args:
        head: the head.
        h: (N, C) features, for a proposal.
        image_part: (N, hidden) their part of the fusion layer.
    """

    def __init__(self, head: EBMRegressionHead, h: Tensor, image_part: Tensor) -> None:
        self.head, self.h, self.image_part = head, h, image_part

    def __call__(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            return self.head.evaluate(self.image_part, z)

    def select(self, index: Tensor) -> ImageLogDensity:
        """The same function for some of the images, ``index`` (n,) int64."""
        return type(self)(self.head, self.h[index], self.image_part[index])


class ProposalImageLogDensity(ImageLogDensity):
    """A log-density of labels that comes with a learned proposal."""

    def proposal(self) -> MixtureDensity | WrappedMixture:
        """The N densities q(z | x), made from features without gradient."""
        return self.head.propose(self.h)


class ResidualImageLogDensity(ProposalImageLogDensity):
    """f = log q + g: the proposal, constant in f's gradient, and the network's correction g."""

    def __init__(self, head: EBMRegressionHead, h: Tensor, image_part: Tensor) -> None:
        super().__init__(head, h, image_part)
        self.learned = head.propose(h)
        self.base = self.learned.detach()

    def __call__(self, z: Tensor) -> Tensor:
        return self.base.log_prob(z) + super().__call__(z)

    def proposal(self) -> MixtureDensity | WrappedMixture:
        """The N densities q(z | x), with gradient."""
        return self.learned


class OnSupport:
    """A log-density that is -inf outside the support of a codec, where no probability is.

    Args:
        log_density_fn: f.
        codec: the support.
    """

    def __init__(self, log_density_fn: LogDensityFn, codec: TargetCodec) -> None:
        self.log_density_fn, self.codec = log_density_fn, codec

    def __call__(self, z: Tensor) -> Tensor:
        return self.log_density_fn(z).masked_fill(~self.codec.contains(z), -torch.inf)

    def select(self, index: Tensor) -> OnSupport:
        """The same function for some of the images, ``index`` (n,) int64."""
        return OnSupport(self.log_density_fn.select(index), self.codec)
