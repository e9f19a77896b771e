"""Priors whose sizes are fractions of the image's sides."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmdet.models.task_modules.prior_generators import SSDAnchorGenerator
from mmdet.registry import TASK_UTILS
from torch import Tensor

__all__ = ["FractionSSDAnchorGenerator"]


@TASK_UTILS.register_module()
class FractionSSDAnchorGenerator(SSDAnchorGenerator):
    """SSD's priors as fractions of the image, so that a "square" one has the shape of the image.

    With scales s and ratios a of level k, in fractions of width and height:

        (s_k, s_k);  (√(s_k s_k+1), √(s_k s_k+1));  (s_k √a, s_k / √a) and (s_k / √a, s_k √a)

    with widths and heights limited to 1. A map of h x w cells has its centres at

        ((j + 1/2) ⌊W / w⌋, (i + 1/2) ⌊H / h⌋)    in pixels of an image of H x W

    The reference rounds its steps down as well (213 pixels for 640 / 3). Priors may reach beyond
    the image, and follow the size of the image that is given. Inside a level they are ordered by
    row, column, prior.

    Args:
        input_size: (H, W) in pixels where :meth:`grid_priors` is not given one.
        scales: s, one more than there are levels.
        ratios: of each level, each above 1.
        use_box_type: must be False.

    Raises:
        ValueError: the numbers of scales and ratios do not fit, or ``use_box_type`` is True.
    """

    def __init__(
        self,
        input_size: tuple[int, int] = (480, 640),
        scales: Sequence[float] = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        ratios: Sequence[Sequence[float]] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        use_box_type: bool = False,
    ) -> None:
        if len(scales) != len(ratios) + 1:
            raise ValueError(
                f"{len(scales)} scales for {len(ratios)} levels of ratios; there has to be one "
                "scale for each level and one more"
            )
        if use_box_type:
            raise ValueError("FractionSSDAnchorGenerator gives tensors; leave use_box_type=False")
        self.input_size = tuple(input_size)
        self.use_box_type = use_box_type
        self.fractions = [
            _sides(scale, following, level)
            for scale, following, level in zip(scales, scales[1:], ratios)
        ]

    @property
    def num_levels(self) -> int:
        """Number of feature levels."""
        return len(self.fractions)

    @property
    def num_base_priors(self) -> list[int]:
        """Priors of each cell, for each level."""
        return [len(level) for level in self.fractions]

    def grid_priors(
        self,
        featmap_sizes: Sequence[tuple[int, int]],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        input_size: tuple[int, int] | None = None,
    ) -> list[Tensor]:
        """Priors of all levels, in pixels.

        Args:
            featmap_sizes: (h, w) of each level.
            dtype: of the priors.
            device: of the priors.
            input_size: (H, W) of the network's input in pixels.

        Returns:
            For each level (h * w * priors, 4) ``(x1, y1, x2, y2)``.

        Raises:
            ValueError: there are more or fewer maps than levels.
        """
        if len(featmap_sizes) != self.num_levels:
            raise ValueError(
                f"{len(featmap_sizes)} maps for the priors of {self.num_levels} levels; scales and "
                "ratios of the anchor generator have to fit the levels of the neck"
            )
        return [
            self.single_level_grid_priors(size, i, dtype, device, input_size)
            for i, size in enumerate(featmap_sizes)
        ]

    def single_level_grid_priors(
        self,
        featmap_size: tuple[int, int],
        level_idx: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        input_size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Priors (h * w * priors, 4) of one level; see :meth:`grid_priors`."""
        height, width = input_size or self.input_size
        rows, columns = (int(side) for side in featmap_size)
        # In float32 whatever the dtype: half precision would move centres by pixels.
        whole = torch.tensor([width, height], dtype=torch.float32, device=device)
        half = 0.5 * whole * torch.tensor(self.fractions[level_idx], device=device).clamp(max=1)
        y = (torch.arange(rows, device=device) + 0.5) * (height // rows)
        x = (torch.arange(columns, device=device) + 0.5) * (width // columns)
        centres = torch.stack(
            [x.expand(rows, columns), y[:, None].expand(rows, columns)], dim=-1
        ).unsqueeze(2)
        return torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4).to(dtype)

    def valid_flags(
        self,
        featmap_sizes: Sequence[tuple[int, int]],
        pad_shape: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> list[Tensor]:
        """For each level, which of its priors have their centres inside ``pad_shape`` (H, W)."""
        limit = torch.tensor([pad_shape[1], pad_shape[0]], dtype=torch.float32, device=device)
        return [
            ((level[:, :2] + level[:, 2:]) / 2 < limit).all(1)
            for level in self.grid_priors(featmap_sizes, device=device)
        ]

    def __repr__(self) -> str:
        """The settings."""
        return (
            f"{type(self).__name__}(input_size={self.input_size}, "
            f"num_base_priors={self.num_base_priors})"
        )


def _sides(scale: float, following: float, ratios: Sequence[float]) -> list[tuple[float, float]]:
    """(width, height) of the priors of a cell, in fractions, not limited."""
    between = math.sqrt(scale * following)
    sides = [(scale, scale), (between, between)]
    for ratio in ratios:
        root = math.sqrt(ratio)
        sides += [(scale * root, scale / root), (scale / root, scale * root)]
    return sides
