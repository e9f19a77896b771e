"""The sparse 3D encoder of SA-SSD, in which every point is a separate site."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmcv.cnn import build_norm_layer
from mmdet3d.models.layers import make_sparse_convmodule
from mmdet3d.models.layers.spconv import IS_SPCONV2_AVAILABLE
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..connected_zero import connected_zero

if IS_SPCONV2_AVAILABLE:
    from spconv.pytorch import SparseConvTensor, SubMConv3d

__all__ = ["SASSDSparseEncoder"]


@MODELS.register_module()
class SASSDSparseEncoder(BaseModule):
    r"""Sparse convolutions from points to a bird's-eye-view map of stride 8.

    With (D, H, W) = (40, 1600, 1408), KITTI's range in voxels of 0.05 x 0.05 x 0.1 m:

        stem        2 submanifold convolutions                      16 channels   (40, 1600, 1408)
        stages 0    stride 2, then 2 submanifold convolutions       32            (20,  800,  704)
               1    stride 2, then 3                                64            (10,  400,  352)
               2    stride 2, then 3                                64            ( 5,  200,  176)
        conv_out    1 x 1 x 1                                       64            ( 5,  200,  176)

    and heights become channels, ``64 * 5 = 320``. Each convolution (3 x 3 x 3, padding 1, without
    bias) is followed by batch normalisation and ReLU.

    Several points may lie in a voxel v. Then every point i is a separate site with its own feature
    (``site='point'``), and only the last point of a voxel gets the features of its neighbours: in
    the stem

        y_i = W_0 x_i + [i = last(v(i))] \sum_{o != 0} W_o \sum_{j: v(j) = v(i) + o} x_j

    and the first convolution of stride 2 reads the sum over the points of a voxel. This is what
    spconv 1.0 computes, with which SA-SSD was trained. In the released code on a CPU the point that
    gets the neighbours is the last one, as has been verified; on a GPU, where the threads of spconv
    1.0 race, it may be any point of the voxel. spconv 2 accepts several sites in a voxel but
    assumes that half of a kernel's pairs mirror the other half, which then does not hold. So here
    spconv 2 gets the sum over each voxel, and the terms of the single points are added afterwards.

    Args:
        in_channels: channels of a point, ``(x, y, z, reflectance)``.
        sparse_shape: numbers of voxels (D, H, W) along z, y, x.
        site: ``'point'``, or ``'voxel'`` to average the points of a voxel first, as mmdet3d's
            detectors do. If no points share a voxel, both are the same.
        stem_channels: width of the stem.
        stage_channels: width of each stage.
        stage_convs: number of submanifold convolutions of each stage.
        out_channels: width of the last convolution.
        norm_cfg: normalisation over sites.
        init_cfg: mmengine's. By default spconv's own initialisation.

    Raises:
        ImportError: spconv 2 is not installed.
        ValueError: ``site`` is neither of the two, or the numbers of stages differ.

    Source: He et al., "Structure Aware Single-stage 3D Object Detection from Point Cloud",
    CVPR 2020, and its released code.
    """

    def __init__(
        self,
        in_channels: int = 4,
        sparse_shape: Sequence[int] = (40, 1600, 1408),
        site: str = "point",
        stem_channels: int = 16,
        stage_channels: Sequence[int] = (32, 64, 64),
        stage_convs: Sequence[int] = (2, 3, 3),
        out_channels: int = 64,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if not IS_SPCONV2_AVAILABLE:
            raise ImportError(
                "SASSDSparseEncoder needs spconv 2: `pip install spconv` for a CPU, "
                "`pip install spconv-cu120` (or your CUDA version) for a GPU"
            )
        if site not in ("point", "voxel"):
            raise ValueError(f"site={site!r}, expected 'point' or 'voxel'")
        if len(stage_channels) != len(stage_convs):
            raise ValueError(
                f"stage_channels={tuple(stage_channels)} and stage_convs={tuple(stage_convs)} "
                "must have one entry per stage"
            )
        super().__init__(init_cfg)
        self.sparse_shape = tuple(int(n) for n in sparse_shape)
        self.site, self.out_channels = site, out_channels
        norm_cfg = norm_cfg or dict(type="BN1d", eps=1e-3, momentum=0.01)
        self.stem = nn.ModuleList(
            _StemLayer(channels, stem_channels, norm_cfg)
            for channels in (in_channels, stem_channels)
        )
        self.stages = nn.ModuleList()
        width = stem_channels
        for i, (channels, convs) in enumerate(zip(stage_channels, stage_convs)):
            down = make_sparse_convmodule(
                width,
                channels,
                3,
                stride=2,
                padding=1,
                indice_key=f"down{i}",
                conv_type="SparseConv3d",
                norm_cfg=norm_cfg,
            )
            same = [
                make_sparse_convmodule(
                    channels, channels, 3, padding=1, indice_key=f"stage{i}", norm_cfg=norm_cfg
                )
                for _ in range(convs)
            ]
            self.stages.append(nn.Sequential(down, *same))
            width = channels
        # Not spconv 2's layer: it declares a kernel of size 1 as (out, 1, 1, 1, in), but reads it
        # as (in, out).
        self.conv_out = nn.Sequential(
            nn.Linear(width, out_channels, bias=False),
            build_norm_layer(norm_cfg, out_channels)[1],
            nn.ReLU(inplace=True),
        )

    @property
    def stride(self) -> int:
        """Voxels per cell of the map."""
        return 2 ** len(self.stages)

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """(D, H, W) of the last stage; the map has ``out_channels * D`` channels."""
        depth, height, width = (-(-n // self.stride) for n in self.sparse_shape)
        return depth, height, width

    def forward(
        self, features: Tensor, coors: Tensor, batch_size: int
    ) -> tuple[Tensor, list[SparseConvTensor]]:
        """Encode the points of a batch; float32, also under autocast.

        Args:
            features: (N, in_channels) features of points, or of voxels.
            coors: (N, 4) integers, frame and voxel ``(b, z, y, x)`` of each, inside
                ``sparse_shape``.
            batch_size: number of frames B.

        Returns:
            The map (B, out_channels * D', H', W') with (D', H', W') = :attr:`out_shape`, and the
            sparse tensors after the stages. Without points: zeros that are connected to the
            parameters, so that every process of a distributed training has all gradients, and an
            empty list.
        """
        if not len(features):
            depth, height, width = self.out_shape
            shape = (batch_size, self.out_channels * depth, height, width)
            nothing = connected_zero(self.parameters())
            return features.new_zeros(shape, dtype=torch.float32) + nothing, []
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            voxel, last = self._group(coors)
            if self.site == "voxel":
                count = torch.bincount(voxel).unsqueeze(1)
                features = _sum_by_voxel(features, voxel, len(last)) / count
                coors = coors[last]
                voxel = last = torch.arange(len(last), device=last.device)
            x = SparseConvTensor(
                _sum_by_voxel(features, voxel, len(last)),
                coors[last].int().contiguous(),
                self.sparse_shape,
                batch_size,
            )
            for layer in self.stem:
                features, x = layer(features, x, voxel, last)
            levels = []
            for stage in self.stages:
                x = stage(x)
                levels.append(x)
            x = x.replace_feature(self.conv_out(x.features))
            return x.dense().flatten(1, 2), levels

    def _group(self, coors: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the voxel (N,) of each point, and of the last point (V,) of each voxel."""
        _, height, width = self.sparse_shape
        b, z, y, x = coors.long().unbind(1)
        key = ((b * self.sparse_shape[0] + z) * height + y) * width + x
        voxels, voxel = torch.unique(key, return_inverse=True)
        rows = torch.arange(len(key), device=key.device)
        return voxel, torch.zeros_like(voxels).scatter_reduce_(0, voxel, rows, "amax")


class _StemLayer(nn.Module):
    """A submanifold convolution of points that may share voxels; see the encoder."""

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.conv = SubMConv3d(in_channels, out_channels, 3, bias=False, indice_key="stem")
        self.norm = build_norm_layer(norm_cfg, out_channels)[1]
        self.act = nn.ReLU(inplace=True)

    def forward(
        self, features: Tensor, sites: SparseConvTensor, voxel: Tensor, last: Tensor
    ) -> tuple[Tensor, SparseConvTensor]:
        """(N, C) features and the tensor of their sums by voxel -> both after the convolution."""
        out = self.conv(sites)
        if len(last) == len(voxel):
            rows = out.features[voxel]
        else:
            centre = self.conv.weight[:, 1, 1, 1].t()
            neighbours = out.features - sites.features @ centre
            rows = (features @ centre).index_add(0, last, neighbours)
        rows = self.act(self.norm(rows))
        return rows, out.replace_feature(_sum_by_voxel(rows, voxel, len(last)))


def _sum_by_voxel(features: Tensor, voxel: Tensor, num_voxels: int) -> Tensor:
    """Sums over the points of each voxel, (N, C) -> (V, C)."""
    return features.new_zeros(num_voxels, features.shape[1]).index_add(0, voxel, features)
