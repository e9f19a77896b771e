"""The energy head in 3D: a scalar log-density f(x, y) for any box y, given BEV features x."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmdet3d.registry import MODELS, TASK_UTILS
from torch import Tensor, nn

from ebm_mmdet.energy.float32_linear import Float32Linear
from ebm_mmdet.energy.old_names import refuse
from ebm_mmdet.models.heads import FeatureStandardizer, RegressingHead
from ebm_ops import rotated_grid_pool

from ..height_map import HEIGHT_CHANNELS, height_map
from .box_regression_3d import BoxRegression3D

__all__ = ["EBM3DRefineHead"]


def _shared_noise(value: bool) -> str:
    return f"shared_noise belongs to the noise distribution: objective.noise.shared={value}"


def _pair(name: str, value: Sequence[float]) -> tuple[float, float]:
    """Settings of z and of h.

    Raises:
        ValueError: they are not two finite numbers.
    """
    pair = tuple(float(each) for each in value)
    if len(pair) != 2 or not all(map(math.isfinite, pair)):
        raise ValueError(f"{name}={value}; give two finite numbers, of z and of h, in metres")
    return pair


@MODELS.register_module()
@refuse("shared_noise", _shared_noise)
class EBM3DRefineHead(RegressingHead):
    r"""Energy head on bird's-eye-view features sampled on a grid that rotates with the box.

        f(x, y, c) = MLP([grid(x; x, y, l, w, yaw), MLP_z(z), MLP_h(h)])_c

    With ``point_heights`` the MLP also sees, at the same samples, how far the highest point lies
    above the top of the box, how far the lowest one lies above its bottom, and where there are any.

    ``grid`` are 4 x 7 bilinear samples, box edges included (:func:`ebm_ops.rotated_grid_pool`).
    Sampling a map seen from above does not depend on bottom and height, so these enter through MLPs
    of their own, as ``(z - branch_center) / branch_scale``. ``f`` is an unnormalised log-density
    over (x, y, z, l, w, h, yaw), z at the bottom as in mmdet3d, defined up to a constant per
    object, and 2π-periodic in yaw. Sizes below ``min_box_size`` count as that size (gradient 0).
    Features outside the map are zero; a box with a coordinate that is not finite has ``f = -inf``.

    Everything is computed in float32, also under autocast, because half precision is too coarse for
    metres.

    Args:
        num_classes: number of foreground classes.
        objective: how f is trained, a registered objective (``NCEObjective``).
        in_channels: channels C of the map.
        origin: position (x0, y0) in metres of the map's first cell if ``pixel_offset`` is 0,
            usually the lower limits of the point cloud range.
        cell_size: size of a cell in metres: voxel size times the stride of the map.
        pixel_offset: cells to subtract, ``u = (x - x0) / cell_size - pixel_offset``. So cell i
            stands for the position ``x0 + (i + pixel_offset) * cell_size``. With voxels of 0.16 m
            and stride 2, hence cells of 0.32 m, and x0 = 0, a point at x = 0.416 m is read

            - with 0 (the paper's convention) at u = 1.3, between cells 1 and 2 with weights 0.7 and
              0.3; cell 1 stands for 0.32 m;
            - with 0.25 at u = 1.05, with weights 0.95 and 0.05; cell 1 stands for 0.40 m, which is
              the centre of voxel 2, where a 3 x 3 convolution of stride 2 has its centre.

            The difference is half a voxel, ``0.5 / stride`` cells.
        grid_size: samples across the width and along the length.
        samples_per_bin: 0 for the paper's single samples; n for the mean of n x n samples in each
            bin, as in rotated RoIAlign.
        feature_level: index of the map among those the detector gives.
        standardize: standardise each channel of the map with running statistics. Frozen features
            may have any scale, whereas a fresh trunk learns best on unit scale.
        fc_channels: widths of the trunk.
        branch_channels: width of the two layers of each of the MLPs of z and h.
        branch_center: usual bottom and height of an object in metres, which the MLPs of z and h see
            as 0. The paper has (0, 0).
        branch_scale: metres of z and of h that these MLPs see as 1. The paper has (1, 1), with
            which some centimetres, the errors of detectors, hardly change what a fresh layer gives:
            z and h then stay where they are. Errors of the detector are a good scale.
        point_heights: also read the heights of the points
            (:func:`~ebm_mmdet3d.models.height_map.height_map`), in units of ``branch_scale`` and at
            most four of them. In a map of features they are hard to find.
        min_box_size: lower limit of l, w and h in metres when a box is scored.
        regression: None, or ``dict(loss_weight=1.0, residual_std=None)`` for a second output of the
            trunk, the offsets from a box to its object
            (:class:`~ebm_mmdet3d.models.heads.BoxRegression3D`), with which a refiner may take its
            first steps (``regression_steps`` of ``GradientAscentRefiner``).
        **kwargs: ``act_cfg``, which is also that of the MLPs of z and h, ``class_agnostic``,
            ``loss_weight``, ``gradient_precision`` and ``init_cfg`` of
            :class:`~ebm_mmdet.models.EnergyHead`. The MLPs of z and h start as PyTorch's own.

    The released code draws the noise once per frame, for all boxes in it, instead of once per box:
    ``objective.noise.shared=True``.

    Source: Gustafsson et al., "Accurate 3D Object Detection using Energy-Based Models", CVPR
    Workshops 2021 (2012.04634).
    """

    dim = 7
    task_utils = TASK_UTILS
    regression_type = BoxRegression3D
    # Of the class: heads that were pickled before have no such attributes.
    branch_center, branch_scale = (0.0, 0.0), (1.0, 1.0)
    point_heights = False
    always_float32 = True

    def __init__(
        self,
        num_classes: int,
        objective: dict,
        in_channels: int = 512,
        origin: Sequence[float] = (0.0, -40.0),
        cell_size: float = 0.4,
        pixel_offset: float = 0.0,
        grid_size: Sequence[int] = (4, 7),
        samples_per_bin: int = 0,
        feature_level: int = 0,
        standardize: bool = False,
        fc_channels: Sequence[int] = (1024, 1024),
        branch_channels: int = 16,
        branch_center: Sequence[float] = (0.0, 0.0),
        branch_scale: Sequence[float] = (1.0, 1.0),
        point_heights: bool = False,
        min_box_size: float = 0.05,
        regression: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(num_classes, objective, min_box_size=min_box_size, **kwargs)
        self.in_channels, self.feature_level = in_channels, feature_level
        self.origin = (float(origin[0]), float(origin[1]))
        self.cell_size, self.pixel_offset = float(cell_size), float(pixel_offset)
        self.grid_size = (int(grid_size[0]), int(grid_size[1]))
        self.samples_per_bin = samples_per_bin

        self.standardizer = FeatureStandardizer(in_channels) if standardize else None
        self.branch_center = _pair("branch_center", branch_center)
        self.branch_scale = _pair("branch_scale", branch_scale)
        if min(self.branch_scale) <= 0:
            raise ValueError(f"branch_scale={branch_scale}; give two positive numbers, in metres")
        self.fc_z = self._branch(branch_channels)
        self.fc_h = self._branch(branch_channels)
        self.point_heights = bool(point_heights)
        pooled = self.map_channels * self.grid_size[0] * self.grid_size[1]
        self.build_trunk(pooled + 2 * branch_channels, fc_channels)
        self.build_regression(regression)

    @property
    def map_channels(self) -> int:
        """Channels of the map that :meth:`prepare` takes: those of the heights come last."""
        return self.in_channels + HEIGHT_CHANNELS * self.point_heights

    def with_heights(self, maps: Sequence[Tensor], points: Sequence[Tensor]) -> Sequence[Tensor]:
        """The detector's maps, the chosen one with the heights of the points, if they are read.

        Args:
            maps: BEV maps (B, C, H, W) that the detector gives.
            points: (P, 3 or more) of each of the B frames, metres.

        Returns:
            The maps; the chosen one is (B, C + 3, H, W) float32, because half precision rounds
            heights to centimetres.
        """
        if not self.point_heights or self.feature_level >= len(maps):
            return maps
        feat = maps[self.feature_level]
        place = self.origin, self.cell_size, self.pixel_offset
        heights = height_map(points, feat.shape[-2:], *place).to(feat.device)
        maps = list(maps)
        maps[self.feature_level] = torch.cat([feat.float(), heights], dim=1)
        return maps

    def _branch(self, channels: int) -> nn.Sequential:
        return nn.Sequential(
            Float32Linear(1, channels),
            self.activation,
            Float32Linear(channels, channels),
            self.activation,
        )

    def prepare(
        self,
        maps: Sequence[Tensor],
        detach: bool = True,
        point_cloud_range: Sequence[float] | None = None,
    ) -> list[Tensor]:
        """Make the map that :meth:`log_density` reads; called once per batch of frames.

        Args:
            maps: BEV maps (B, C, H, W) that the detector gives; rows go along y, columns
                along x. With ``point_heights``, the result of :meth:`with_heights`.
            detach: cut the graph to the detector (frozen features).
            point_cloud_range: the detector's range ``(x0, y0, z0, x1, y1, z1)`` in metres, with
                which ``origin`` and ``cell_size`` are checked.

        Returns:
            The chosen map alone, float32, channels-last, standardised if so configured.

        Raises:
            ValueError: the map does not exist, it does not have the configured channels, or it does
                not cover the range.
        """
        if self.feature_level >= len(maps):
            raise ValueError(
                f"feature_level={self.feature_level} but the detector gives {len(maps)} "
                f"maps; choose an index below {len(maps)}"
            )
        feat = maps[self.feature_level]
        if feat.dim() != 4 or feat.shape[1] != self.map_channels:
            added = f", {HEIGHT_CHANNELS} of them heights of points" if self.point_heights else ""
            raise ValueError(
                f"the detector's map has shape {tuple(feat.shape)}, expected (B, "
                f"{self.map_channels}, H, W){added}; set energy_head.in_channels to its channels, "
                "or feature_source to a module that gives a bird's-eye-view map"
            )
        if point_cloud_range is not None:
            self._check_place(feat, point_cloud_range)
        with torch.autocast(feat.device.type, enabled=False):
            feat = (feat.detach() if detach else feat).float()
            if self.standardizer is not None:
                heights = feat[:, self.in_channels :]
                feat = self.standardizer(feat[:, : self.in_channels])
                if self.point_heights:  # else this would copy the map for nothing
                    feat = torch.cat([feat, heights], dim=1)
            return [feat.contiguous(memory_format=torch.channels_last)]

    def _check_place(self, feat: Tensor, point_cloud_range: Sequence[float]) -> None:
        """ValueError if the map's limits differ by more than a cell from those of the range."""
        for axis, cells in ((0, feat.shape[3]), (1, feat.shape[2])):
            low, high = point_cloud_range[axis], point_cloud_range[axis + 3]
            start, size = self.origin[axis], self.cell_size
            if abs(start - low) > size or abs(start + cells * size - high) > size:
                raise ValueError(
                    f"along {'xy'[axis]} the map has {cells} cells of {size} m from {start} m on, "
                    f"but the point cloud range is [{low}, {high}]; set energy_head.origin to "
                    f"{tuple(point_cloud_range[:2])} and energy_head.cell_size to "
                    f"{(high - low) / cells:.4g}"
                )

    def decode(self, offsets: Tensor, reference: Tensor) -> Tensor:
        """The sum: encoded coordinates are plain differences, without limits and wrapping."""
        return reference + offsets

    def pool(self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor) -> Tensor:
        """Features (R, C) of (R, 7) boxes: samples of the grid, and the MLPs of z and h."""
        x, y, z, length, width, height, yaw = boxes.unbind(dim=1)
        length, width, height = (
            size.clamp(min=self.min_box_size) for size in (length, width, height)
        )
        pooled = rotated_grid_pool(
            feats[0],
            torch.stack((x, y, length, width, yaw), dim=1),
            batch_index,
            self.grid_size,
            origin=self.origin,
            cell_size=self.cell_size,
            pixel_offset=self.pixel_offset,
            samples_per_bin=self.samples_per_bin,
            validate=False,  # the index has been checked for all evaluations
        )
        if self.point_heights:
            pooled = self._relative_heights(pooled, z, z + height)
        if (self.branch_center, self.branch_scale) != ((0.0, 0.0), (1.0, 1.0)):
            z = (z - self.branch_center[0]) / self.branch_scale[0]
            height = (height - self.branch_center[1]) / self.branch_scale[1]
        branches = self.fc_z(z.unsqueeze(1)), self.fc_h(height.unsqueeze(1))
        return torch.cat((pooled.flatten(1), *branches), dim=1)

    # So a map may lie in the corner of a larger one (`ebm_mmdet.models.fused_climb`).
    pool.reads_zeros_outside = True

    def _relative_heights(self, pooled: Tensor, bottom: Tensor, top: Tensor) -> Tensor:
        """Samples (R, C + 3, ...) with heights above top and bottom (R,) of each box."""
        read, heights = pooled.split([self.in_channels, HEIGHT_CHANNELS], dim=1)
        highest, lowest, occupied = heights.unbind(1)
        # Where a sample lies between cells with points and cells without, the former count.
        above = (highest - occupied * top[:, None, None]) / self.branch_scale[1]
        below = (lowest - occupied * bottom[:, None, None]) / self.branch_scale[0]
        relative = torch.stack([above.clamp(-4, 4), below.clamp(-4, 4), occupied], dim=1)
        return torch.cat([read, relative], dim=1)

    def is_trainable_box(self, boxes: Tensor) -> Tensor:
        """(N, 7) -> (N,) bool: finite, and every size at least ``min_box_size``."""
        return torch.isfinite(boxes).all(dim=1) & (boxes[:, 3:6] >= self.min_box_size).all(dim=1)
