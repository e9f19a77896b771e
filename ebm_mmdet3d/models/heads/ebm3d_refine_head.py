"""The energy head in 3D: a scalar log-density f(x, y) for any box y, given BEV features x."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from mmdet3d.registry import MODELS, TASK_UTILS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ebm_mmdet.models.heads import BoxLogDensity, FeatureStandardizer
from ebm_ops import rotated_grid_pool

__all__ = ["Box3DLogDensity", "EBM3DRefineHead"]


class Box3DLogDensity(BoxLogDensity):
    """``LogDensityFn`` of a batch of 3D boxes: offsets (N, S, 7) -> f (N, S), float32.

    Made by :meth:`EBM3DRefineHead.log_density_fn`. Encoded coordinates are the differences to
    ``reference`` (N, 7) in metres and radians, neither floored nor wrapped.
    """

    def __call__(self, offsets: Tensor) -> Tensor:
        boxes = self.reference[:, None, :] + offsets
        return self.head.log_density(self.feats, boxes, self.batch_index, self.labels)


@MODELS.register_module()
class EBM3DRefineHead(BaseModule):
    r"""Energy head on bird's-eye-view features sampled on a grid that turns with the box.

        f(x, y, c) = MLP([grid(x; x, y, l, w, yaw), MLP_z(z), MLP_h(h)])_c

    ``grid`` are 4 x 7 bilinear samples, box edges included (:func:`ebm_ops.rotated_grid_pool`). A
    map seen from above knows neither height nor bottom, so those enter through MLPs of their own,
    in metres. ``f`` is an unnormalised log-density over (x, y, z, l, w, h, yaw), z at the bottom
    as in mmdet3d, defined up to a constant per object, and 2π-periodic in yaw. Sizes below
    ``min_box_size`` count as that size (gradient 0). Outside the map features are zero; a box with
    a coordinate that is not finite has ``f = -inf``.

    Everything runs in float32, also under autocast: metres do not survive half precision.

    Args:
        num_classes: number of foreground classes.
        objective: how f is trained, a registered objective (``NCEObjective``).
        in_channels: channels C of the map.
        origin: position (x0, y0) of the map's first cell in metres, usually the lower limits of
            the point cloud range.
        cell_size: size of a cell in metres: voxel size times the stride of the map.
        pixel_offset: cells to subtract, ``u = (x - x0) / cell_size - pixel_offset``. 0 is the
            paper's. The centre of a cell lies half a voxel further, that is 0.5 / stride.
        grid_size: samples across the width and along the length.
        samples_per_bin: 0 for the paper's single samples; n for the mean of n x n samples in each
            bin, as rotated RoIAlign has them.
        feature_level: index of the map among those the detector gives.
        standardize: standardise each channel of the map with running statistics. Frozen features
            may have any scale; a fresh trunk wants unit scale.
        fc_channels: widths of the trunk.
        branch_channels: width of the two layers of each of the MLPs of z and h.
        act_cfg: activation. Score matching differentiates f twice with respect to the box, so it
            wants a smooth one (``dict(type='SiLU')``).
        class_agnostic: one output for all classes instead of one per class.
        shared_noise: draw the objective's noise once per frame, for all boxes in it, as the
            released code does, instead of once per box.
        min_box_size: lower limit of l, w and h in metres when a box is scored.
        loss_weight: factor on the loss.
        init_cfg: mmengine's. Default: Kaiming-uniform trunk with biases 0, output N(0, 0.001),
            PyTorch's own for the MLPs of z and h.

    Raises:
        ValueError: ``shared_noise`` with an objective that has no noise.

    Source: Gustafsson et al., "Accurate 3D Object Detection using Energy-Based Models", CVPR
    Workshops 2021 (2012.04634).
    """

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
        act_cfg: dict | None = None,
        class_agnostic: bool = False,
        shared_noise: bool = False,
        min_box_size: float = 0.05,
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_classes, self.class_agnostic = num_classes, class_agnostic
        self.in_channels, self.feature_level = in_channels, feature_level
        self.origin = (float(origin[0]), float(origin[1]))
        self.cell_size, self.pixel_offset = float(cell_size), float(pixel_offset)
        self.grid_size = (int(grid_size[0]), int(grid_size[1]))
        self.samples_per_bin = samples_per_bin
        self.min_box_size, self.loss_weight = float(min_box_size), loss_weight

        self.standardizer = FeatureStandardizer(in_channels) if standardize else None
        self.activation = MODELS.build(act_cfg or dict(type="ReLU", inplace=True))
        self.fc_z = self._branch(branch_channels)
        self.fc_h = self._branch(branch_channels)
        pooled = in_channels * self.grid_size[0] * self.grid_size[1]
        widths = [pooled + 2 * branch_channels, *fc_channels]
        self.trunk = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        self.fc_energy = nn.Linear(widths[-1], 1 if class_agnostic else num_classes)
        self._reset_parameters()

        self.shared_noise = shared_noise
        self.objective = self._build_objective(dict(objective))

    def _build_objective(self, objective: dict):
        noise = objective.get("noise")
        if isinstance(noise, dict):
            shared = {"shared": True} if self.shared_noise else {}
            objective["noise"] = TASK_UTILS.build({**noise, **shared})
        elif self.shared_noise:
            raise ValueError(
                f"shared_noise=True, but the objective {objective['type']} has no noise to share; "
                "give objective.noise as a config, or shared_noise=False"
            )
        return TASK_UTILS.build(objective)

    def _branch(self, channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(1, channels), self.activation, nn.Linear(channels, channels), self.activation
        )

    def _reset_parameters(self) -> None:
        for layer in self.trunk:
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.fc_energy.weight, std=0.001)
        nn.init.zeros_(self.fc_energy.bias)

    def prepare(
        self,
        feature_maps: Sequence[Tensor],
        detach: bool = True,
        point_cloud_range: Sequence[float] | None = None,
    ) -> list[Tensor]:
        """Make the map that :meth:`log_density` reads; once per batch of frames.

        Args:
            feature_maps: BEV maps (B, C, H, W) that the detector gives; rows go along y, columns
                along x.
            detach: cut the graph to the detector (frozen features).
            point_cloud_range: of the detector, ``(x0, y0, z0, x1, y1, z1)`` in metres, to check
                ``origin`` and ``cell_size`` by.

        Returns:
            The chosen map alone, float32, channels-last, standardised if so configured.

        Raises:
            ValueError: there is no such map, it has other channels than configured, or it does not
                cover the range.
        """
        if self.feature_level >= len(feature_maps):
            raise ValueError(
                f"feature_level={self.feature_level} but the detector gives {len(feature_maps)} "
                f"maps; choose an index below {len(feature_maps)}"
            )
        feat = feature_maps[self.feature_level]
        if feat.dim() != 4 or feat.shape[1] != self.in_channels:
            raise ValueError(
                f"the detector's map has shape {tuple(feat.shape)}, expected (B, "
                f"{self.in_channels}, H, W); set energy_head.in_channels to its channels, or "
                "feature_source to a module that gives a bird's-eye-view map"
            )
        if point_cloud_range is not None:
            self._check_place(feat, point_cloud_range)
        with torch.autocast(feat.device.type, enabled=False):
            feat = (feat.detach() if detach else feat).float()
            if self.standardizer is not None:
                feat = self.standardizer(feat)
            return [feat.contiguous(memory_format=torch.channels_last)]

    def _check_place(self, feat: Tensor, point_cloud_range: Sequence[float]) -> None:
        """ValueError if the map starts, or ends, more than a cell from where the range does."""
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

    def log_density(
        self, feats: Sequence[Tensor], boxes: Tensor, batch_index: Tensor, labels: Tensor
    ) -> Tensor:
        """f(x, y, c) of S boxes for each of N objects.

        Args:
            feats: what :meth:`prepare` returned.
            boxes: (N, S, 7) float, ``(x, y, z, l, w, h, yaw)`` in metres and radians, z at the
                bottom, in the frame of the map.
            batch_index: (N,) frame of each object, int64.
            labels: (N,) class of each object, int64 in ``[0, num_classes)``.

        Returns:
            (N, S) float32; differentiable with respect to ``boxes``.

        Raises:
            ValueError: a label or a batch index is out of range.
        """
        num, samples = boxes.shape[:2]
        if num and not self.class_agnostic:
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.num_classes:
                raise ValueError(
                    f"labels lie in [{low}, {high}], expected [0, {self.num_classes - 1}]; set "
                    "energy_head.num_classes to the detector's number of classes"
                )
        with torch.autocast(boxes.device.type, enabled=False):
            flat = boxes.float().reshape(num * samples, 7)
            finite = torch.isfinite(flat).all(dim=1)
            # NaN times a zero gradient would still be NaN, in the weights.
            flat = flat.where(finite[:, None], torch.zeros_like(flat))
            x = self._embed(feats[0], flat, batch_index.repeat_interleave(samples))
            energies = self.fc_energy(x).unflatten(0, (num, samples))
        if self.class_agnostic:
            f = energies[..., 0]
        else:
            f = energies.gather(2, labels.view(num, 1, 1).expand(-1, samples, 1)).squeeze(2)
        return f.masked_fill(~finite.view(num, samples), float("-inf"))

    def _embed(self, feat: Tensor, boxes: Tensor, batch_index: Tensor) -> Tensor:
        """(R, 7) boxes -> (R, fc_channels[-1])."""
        x, y, z, length, width, height, yaw = boxes.unbind(dim=1)
        length, width, height = (
            size.clamp(min=self.min_box_size) for size in (length, width, height)
        )
        pooled = rotated_grid_pool(
            feat,
            torch.stack((x, y, length, width, yaw), dim=1),
            batch_index,
            self.grid_size,
            origin=self.origin,
            cell_size=self.cell_size,
            pixel_offset=self.pixel_offset,
            samples_per_bin=self.samples_per_bin,
        )
        x = torch.cat(
            (pooled.flatten(1), self.fc_z(z.unsqueeze(1)), self.fc_h(height.unsqueeze(1))), dim=1
        )
        for layer in self.trunk:
            x = self.activation(layer(x))
        return x

    def log_density_fn(
        self, feats: Sequence[Tensor], reference: Tensor, batch_index: Tensor, labels: Tensor
    ) -> Box3DLogDensity:
        """The log-density as a function of offsets from reference boxes (N, 7), see the design.

        Arguments are those of :meth:`log_density`; tensors made under ``inference_mode`` are
        cloned, because autograd cannot record operations on them.
        """
        return Box3DLogDensity.recordable(self, feats, reference, batch_index, labels)

    def loss(
        self,
        feats: Sequence[Tensor],
        gt_boxes: Tensor,
        batch_index: Tensor,
        labels: Tensor,
        avg_factor: float | Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Training loss of the objective, averaged over all ground-truth boxes of the batch.

        Args:
            feats: what :meth:`prepare` returned.
            gt_boxes: (N, 7) as in :meth:`log_density`; N may be 0, the loss is then a zero
                connected to the parameters. See :meth:`is_trainable_box`.
            batch_index: (N,) int64.
            labels: (N,) int64.
            avg_factor: divisor of the summed loss; N if None. Across processes: the mean N.

        Returns:
            ``loss_energy`` and the objective's diagnostics as ``energy_<name>``.
        """
        fn = self.log_density_fn(feats, gt_boxes, batch_index, labels)
        # Encoded relative to itself, every target is the origin.
        targets = torch.zeros_like(fn.reference)
        if not self.shared_noise:
            out = self.objective(fn, targets, avg_factor=avg_factor)
        else:
            out = self._loss_by_frame(fn, targets, avg_factor)
        losses = {f"energy_{name}": value for name, value in out.items() if name != "loss"}
        return {"loss_energy": self.loss_weight * out["loss"], **losses}

    def _loss_by_frame(
        self, fn: Box3DLogDensity, targets: Tensor, avg_factor: float | Tensor | None
    ) -> dict[str, Tensor]:
        """The objective frame by frame, since its noise is shared within one call."""
        total = max(len(targets), 1)
        # A batch without boxes is one frame without boxes: the loss must reach the parameters.
        frames = fn.batch_index.unique().tolist() or [-1]
        sums: dict[str, Tensor] = {}
        for frame in frames:
            rows = torch.nonzero(fn.batch_index == frame).squeeze(1)
            factor = total if avg_factor is None else avg_factor
            for name, value in self.objective(
                fn.select(rows), targets[rows], avg_factor=factor
            ).items():
                share = value if name == "loss" else value * (len(rows) / total)
                sums[name] = sums[name] + share if name in sums else share
        return sums

    def is_trainable_box(self, boxes: Tensor) -> Tensor:
        """(N, 7) -> (N,) bool: finite, and every size at least ``min_box_size``."""
        return torch.isfinite(boxes).all(dim=1) & (boxes[:, 3:6] >= self.min_box_size).all(dim=1)
