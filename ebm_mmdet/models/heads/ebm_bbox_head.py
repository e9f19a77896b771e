"""The energy head: a scalar log-density f(x, y) for any box y, given neck features x."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from ebm_ops import prroi_pool, prroi_pool_levels

from ...energy.float32_linear import Float32Linear
from ...energy.old_names import refuse
from ..box_coding import decode_boxes
from ..feature_maps import check_levels, measure_maps
from ..inclusive_boxes import to_last_pixels
from .feature_standardizer import FeatureStandardizer
from .level_arguments import (
    channels_of_levels,
    level_indices,
    pool_size_of_levels,
    roi_shift_of_levels,
)
from .regressing_head import RegressingHead

__all__ = ["EBMBBoxHead"]


@MODELS.register_module()
@refuse("min_gt_size", lambda value: f"min_gt_size is called min_box_size={value} now")
class EBMBBoxHead(RegressingHead):
    r"""Energy head on Precise-RoI-pooled neck features.

    ``f(x, y, c) = MLP(PrRoIPool(x, y))_c``: pooling, a shared fully connected trunk, and one
    output per class (or one for all). ``f`` is an unnormalised log-density of the box in encoded
    coordinates (:mod:`ebm_mmdet.models.box_coding`); it is defined up to a constant per object.

    Every box has a value. A box without area pools to zeros (gradient 0). Parts outside the map
    count as zeros, which with ``standardize`` is the mean feature. A box with a non-finite
    coordinate has ``f = -inf``.

    In an ``EBMDetector``, ``in_channels``, ``strides`` and ``feature_levels`` may be left out: the
    detector's maps are then looked at once, and chosen by
    :func:`~ebm_mmdet.models.feature_maps.fill_in_levels`. A head that is built alone has the
    defaults of the signature, those of an FPN.

    Args:
        num_classes: number of foreground classes.
        objective: how f is trained, config of a registered objective (``NCEObjective``).
        in_channels: channels of every level that is used: one number for all of them, or, with
            ``level_rule='concat'``, one for each.
        strides: stride in pixels of every level that is used, fine to coarse. ``'assign'`` needs
            them in ascending order, because it counts levels from the finest.
        feature_levels: indices of those levels among the detector's features. By default the first
            ``len(strides)`` levels, in order.
        level_rule: ``'assign'`` pools each box from one level, chosen by the size of **the box
            being scored**: ``floor(log2(sqrt(w h) / finest_scale + 1e-6))``, clamped, which is
            mmdet's form of the FPN rule. (The papers' released code adds its 1e-6 to
            ``sqrt(w h) / 224``; levels differ within 0.001 px of a threshold.) ``'concat'`` pools
            every box from all levels and concatenates the results, which suits small detectors.
        finest_scale: boxes below twice this size (px) go to the finest level.
        pool_size: bins per axis; a box is pooled to ``pool_size x pool_size`` bins. With
            ``level_rule='concat'`` also one number for each level: finer maps are worth more bins.
        region_scale: side of the pooled region in those of the box, about the same centre. Above 1
            the head also sees what lies just outside the box, where the object may go on.
        roi_shift: shift of the RoIs, in cells of each level: a side at x (px) is read at the
            coordinate ``c = x / stride + roi_shift``, where PrRoIPool has cell i at c = i. So cell
            i stands for the position ``(i - roi_shift) * stride``. A side at x = 10.4 px on stride
            8 lies at x / stride = 1.3:

            - 0 (the papers' convention) reads at c = 1.3, between cells 1 and 2 with weights 0.7
              and 0.3. Cell 0 stands for 0 px, cell 1 for 8 px.
            - -0.5 reads at c = 0.8, between cells 0 and 1 with weights 0.2 and 0.8. Cell 0 stands
              for 4 px, the centre of the pixels that it covers, and cell 1 for 12 px. This is
              where mmdet's own heads read, through RoIAlign with ``aligned=True``.

            Also one number for each level: where cell i of each map is centred on pixel
            ``stride i + o``, they are ``-(o + 1/2) / stride``.
        legacy_plus_one: pool a box without its last pixel at the right and at the bottom, as
            networks need it that were trained in maskrcnn-benchmark
            (:mod:`ebm_mmdet.models.inclusive_boxes`). The level is that of the whole box.
        standardize: standardise each channel of the maps with running statistics. Frozen features
            may have any scale, whereas a fresh trunk learns best on unit scale.
        projection_channels: if given, a learned linear map takes the channels of each map to so
            many, once per image and before pooling; with ``'assign'`` one for all levels, as the
            trunk is. Pooling and the first layer then cost less for each box and step, by
            ``projection_channels / in_channels``. Pooling is linear, so f is that of a first layer
            of low rank. None: maps are pooled as they are.
        fc_channels: widths of the trunk.
        regression: None, or ``dict(loss_weight=1.0, residual_std=None)`` for a second
            output of the trunk, the offsets from a box to its object
            (:class:`~ebm_mmdet.models.heads.BoxRegression`), with which a refiner may take its
            first steps (``regression_steps`` of ``GradientAscentRefiner``).
        **kwargs: ``act_cfg``, ``class_agnostic``, ``loss_weight``, ``gradient_precision`` and
            ``init_cfg`` of :class:`~ebm_mmdet.models.EnergyHead`, and ``min_box_size``: annotated
            boxes with a side below so many pixels (1 by default) are not trained on. Rows of a
            projection are orthonormal at first.

    Raises:
        ValueError: ``level_rule`` is unknown, the lengths of ``strides``, ``feature_levels``,
            ``in_channels``, ``pool_size`` and ``roi_shift`` do not match, strides are not ascending
            with ``'assign'``, or ``projection_channels``, ``pool_size`` or ``region_scale`` is not
            positive.

    Source: Gustafsson et al., ECCV 2020 (1909.12297) and BMVC 2020 (2005.01698).
    """

    dim = 4
    # Of the class: heads that were pickled before have no such attribute.
    projection_channels: int | None = None
    region_scale = 1.0

    def __init__(
        self,
        num_classes: int,
        objective: dict,
        in_channels: int | Sequence[int] = 256,
        strides: Sequence[int] = (4, 8, 16, 32),
        feature_levels: Sequence[int] | None = None,
        level_rule: str = "assign",
        finest_scale: float = 56.0,
        pool_size: int | Sequence[int] = 7,
        roi_shift: float | Sequence[float] = 0.0,
        legacy_plus_one: bool = False,
        standardize: bool = False,
        projection_channels: int | None = None,
        fc_channels: Sequence[int] = (1024, 1024),
        regression: dict | None = None,
        region_scale: float = 1.0,
        **kwargs,
    ) -> None:
        super().__init__(num_classes, objective, **kwargs)
        levels = level_indices(feature_levels, strides, level_rule)
        self.strides, self.feature_levels = tuple(strides), levels
        self.level_rule, self.finest_scale = level_rule, float(finest_scale)
        self.in_channels = channels_of_levels(in_channels, len(levels), level_rule)
        self.pool_size = pool_size_of_levels(pool_size, len(levels), level_rule)
        self.roi_shift = roi_shift_of_levels(roi_shift, len(levels))
        if not 0 < region_scale < float("inf"):
            raise ValueError(f"region_scale={region_scale}; give a positive number, such as 1.3")
        self.region_scale = float(region_scale)
        # Of each level but the finest, rounded to float32, in which areas are computed.
        sides = [self.finest_scale * (2**k - 1e-6) for k in range(1, len(levels))]
        areas = torch.tensor(sides, dtype=torch.float32, device="cpu").square()
        self._smallest_areas = areas.tolist()
        self.legacy_plus_one = legacy_plus_one

        self.standardizers = nn.ModuleList(
            FeatureStandardizer(c) for c in (self.in_channels if standardize else ())
        )
        read = self.in_channels if level_rule == "concat" else self.in_channels[:1]
        if projection_channels is not None:
            read = self._build_projections(read, projection_channels)
        self.build_trunk(sum(c * size**2 for c, size in zip(read, self.pool_sizes)), fc_channels)
        self.build_regression(regression)

    @property
    def pool_sizes(self) -> tuple[int, ...]:
        """``pool_size`` of each level."""
        size = self.pool_size
        return (size,) * len(self.strides) if isinstance(size, int) else size

    @property
    def roi_shifts(self) -> tuple[float, ...]:
        """``roi_shift`` of each level, in cells."""
        shift = self.roi_shift
        return (shift,) * len(self.strides) if isinstance(shift, float) else shift

    @property
    def pixel_shifts(self) -> tuple[float, ...]:
        """What is added to all sides of a box before it is read on each level, in pixels."""
        return tuple(shift * stride for shift, stride in zip(self.roi_shifts, self.strides))

    def _build_projections(self, in_channels: Sequence[int], out_channels: int) -> Sequence[int]:
        """Make the projections; returns the channels of each."""
        if out_channels < 1:
            raise ValueError(
                f"projection_channels={out_channels}; give the number of channels to pool, such as "
                "64, or None to pool the maps as they are"
            )
        self.projection_channels = out_channels
        # Without biases, so that zeros stay zeros: they are what lies outside the map.
        self.projections = nn.ModuleList(
            Float32Linear(channels, out_channels, bias=False) for channels in in_channels
        )
        for projection in self.projections:
            nn.init.orthogonal_(projection.weight)
        return (out_channels,) * len(in_channels)

    def prepare(
        self,
        maps: Sequence[Tensor],
        detach: bool = True,
        input_shape: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Make the maps that :meth:`log_density` reads; called once per batch of images.

        Args:
            maps: every level that the detector gives, (B, C, H, W) each.
            detach: cut the graph to the detector (frozen features).
            input_shape: (height, width) of the network's input in pixels, with which the strides
                are checked.

        Returns:
            The chosen levels in float32, channels-last, standardised and projected if so
            configured.

        Raises:
            ValueError: the detector's maps have fewer levels, other channels or other strides than
                configured.
        """
        shapes = measure_maps(maps, input_shape or (1, 1))
        strides = () if input_shape is None else self.strides
        check_levels(self.feature_levels, strides, self.in_channels, shapes, input_shape)
        feats = [maps[level] for level in self.feature_levels]
        feats = [(feat.detach() if detach else feat).float() for feat in feats]
        if self.standardizers:
            feats = [norm(feat) for norm, feat in zip(self.standardizers, feats)]
        feats = [feat.contiguous(memory_format=torch.channels_last) for feat in feats]
        if self.projection_channels is None:
            return feats
        # One for all levels, or one for each; as a product over channels, which lie last in memory.
        return [
            projection(feat.permute(0, 2, 3, 1)).float().permute(0, 3, 1, 2)
            for projection, feat in zip(itertools.cycle(self.projections), feats)
        ]

    def decode(self, offsets: Tensor, reference: Tensor) -> Tensor:
        """See :func:`~ebm_mmdet.models.box_coding.decode_boxes`."""
        return decode_boxes(offsets, reference)

    @torch.no_grad()
    def assign_levels(self, boxes: Tensor) -> Tensor:
        """(R, 4) -> (R,) int64: level k from area (finest_scale 2^k)^2 on; NaN to the coarsest."""
        area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
        levels = torch.full_like(area, len(self._smallest_areas), dtype=torch.int64)
        # Numbers of the host: to copy a tensor of them in each evaluation would wait for a GPU.
        for level, limit in reversed(list(enumerate(self._smallest_areas))):
            levels.masked_fill_(area < limit, level)
        return levels

    def pool(self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor) -> Tensor:
        """(R, 4) boxes in image pixels -> (R, C' * pool_size^2) pooled features.

        With ``'concat'`` these are the features of the levels, one after the other.
        """
        corners = to_last_pixels(boxes) if self.legacy_plus_one else boxes
        if self.region_scale != 1:
            side = (corners[:, 2:] - corners[:, :2]).clamp(min=0)
            margin = 0.5 * (self.region_scale - 1) * side
            corners = torch.cat([corners[:, :2] - margin, corners[:, 2:] + margin], dim=1)
        images = batch_index.unsqueeze(1).to(boxes)
        scales = [1 / stride for stride in self.strides]
        shifts = self.pixel_shifts
        # The index of the image has been checked for all evaluations.
        options = dict(validate=False)
        if self.level_rule == "assign" and len(scales) > 1:
            levels = self.assign_levels(boxes)
            if any(shifts):
                shift = torch.zeros_like(boxes[:, :1])
                for level, each in enumerate(shifts):
                    shift.masked_fill_((levels == level).unsqueeze(1), each)
                corners = corners + shift
            rois = torch.cat((images, corners), dim=1)
            options["output_size"] = self.pool_size
            pooled = prroi_pool_levels(feats, rois, levels, spatial_scales=scales, **options)
            return pooled.flatten(1)
        parts, read_at = [], None
        for feat, scale, shift, size in zip(feats, scales, shifts, self.pool_sizes):
            if shift != read_at:
                shifted = corners + shift if shift else corners
                rois, read_at = torch.cat((images, shifted), dim=1), shift
            pooled = prroi_pool(feat, rois, output_size=size, spatial_scale=scale, **options)
            parts.append(pooled.flatten(1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def is_trainable_box(self, boxes: Tensor) -> Tensor:
        """(N, 4) -> (N,) bool: finite, and both sides at least ``min_box_size`` pixels."""
        sides = boxes[:, 2:] - boxes[:, :2]
        return torch.isfinite(boxes).all(dim=1) & (sides >= self.min_box_size).all(dim=1)
