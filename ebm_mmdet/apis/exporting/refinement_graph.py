"""The refinement of a model as a module that a graph can record."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...models import EBMDetector, GradientAscentRefiner, ImportanceMeanRefiner
from ...models.box_coding import change_reference
from ...models.side_uncertainty import covariance_to_side_std

__all__ = ["RefinementGraph", "check_refiner"]


def check_refiner(model: nn.Module) -> None:
    """Raise ``ValueError``, which names the part, if the refinement cannot be recorded."""
    if not isinstance(model, EBMDetector):
        raise ValueError(f"{type(model).__name__} is no EBMDetector; only its models are exported")
    refiner = model.refiner
    if refiner is None:
        return
    if not isinstance(refiner, (GradientAscentRefiner, ImportanceMeanRefiner)):
        raise ValueError(
            f"model.refiner is {type(refiner).__name__}; exported are GradientAscentRefiner and "
            "ImportanceMeanRefiner. Set model.refiner to one of them in the config"
        )
    if refiner.prior is not None and refiner.prior.std == "per_box":
        raise ValueError(
            "model.refiner.prior.std is 'per_box', the covariance of each box, which is not "
            "exported; give one standard deviation per coordinate"
        )


class RefinementGraph(nn.Module):
    """Boxes, labels, images and maps -> refined boxes before clipping and f.

    Inputs are boxes (n, 4) float32 in pixels of the network's input, labels (n,) and images (n,)
    int64, and the maps (B, C, H, W) of the detector. Outputs are boxes (n, 4), f (n,), and with a
    refiner that gives a covariance the standard deviations (n, 4) of their sides in pixels. Boxes
    do not influence each other: fill up with zeros. All are refined: scores are no input, so that
    ``min_score`` is not in it.

    Args:
        model: an ``EBMDetector`` in eval mode.

    Raises:
        ValueError: the refinement cannot be recorded; the message names the part.
    """

    def __init__(self, model: EBMDetector) -> None:
        super().__init__()
        check_refiner(model)
        if model.refiner is None:
            raise ValueError("model.refiner is None; there is nothing to export")
        if model.flips:
            raise ValueError(
                f"model.flips is {list(model.flips)}, and the refinement alone gets no maps of "
                "mirror images; set model.flips=[] in the config"
            )
        self.head, self.refiner = model.energy_head, model.refiner
        self.input_names = ("boxes", "labels", "images")
        self.output_names = ("boxes", "log_density")
        if isinstance(self.refiner, ImportanceMeanRefiner):
            self.output_names += ("side_std",)

    def forward(
        self, boxes: Tensor, labels: Tensor, images: Tensor, *maps: Tensor
    ) -> tuple[Tensor, ...]:
        """Shapes as in the description of the class."""
        feats = self.head.prepare(maps)
        fn = self.head.log_density_type(self.head, feats, boxes, images, labels)
        found = self.refiner(fn, torch.zeros_like(boxes))
        refined = self.head.decode(found.y, boxes)
        if found.covariance is None:
            return refined, found.log_density
        covariance = change_reference(found.covariance, boxes, refined)
        return refined, found.log_density, covariance_to_side_std(refined, covariance)

    @torch.no_grad()
    def example(
        self, model: EBMDetector, image_size: Sequence[int], batch: int, count: int, seed: int = 0
    ) -> tuple[Tensor, ...]:
        """Inputs: ``count`` random boxes, and maps of random images (batch, 3, H, W)."""
        height, width = image_size
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        corners = torch.rand(2, count, 2, generator=generator) * torch.tensor([width, height])
        boxes = torch.cat([corners.amin(0), corners.amax(0) + 8], 1)
        labels = torch.randint(model.energy_head.num_classes, (count,), generator=generator)
        images = torch.arange(count) % batch
        pixels = torch.randn(batch, 3, height, width, generator=generator).to(device)
        maps = model.extract_maps(pixels)
        return boxes.to(device), labels.to(device), images.to(device), *maps
