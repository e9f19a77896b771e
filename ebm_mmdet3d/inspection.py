"""Which bird's-eye-view maps a detector of mmdet3d has, and what suits an energy head on one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import Tensor, nn

__all__ = ["BEVMap", "Inspection3D", "inspect_config_3d", "point_cloud_range"]

POINTS = 2000
"""Random points of the frame that is run."""
NECKS = ("neck", "pts_neck")
OTHERS = ("backbone", "pts_backbone", "middle_encoder", "pts_middle_encoder")


@dataclass(frozen=True)
class BEVMap:
    """A map of a detector, seen from above."""

    module: str
    """Dotted name of the module that gives it."""
    index: int
    """Position in the module's output."""
    channels: int
    rows: int
    columns: int
    cell_size: float
    """Metres per cell, the same along both axes; 0 if they differ."""


@dataclass(frozen=True)
class Inspection3D:
    """What :func:`inspect_config_3d` finds."""

    detector: str
    maps: list[BEVMap]
    chosen: BEVMap
    origin: tuple[float, float]
    """Lower limits of the point cloud range in x and y, metres."""
    voxel_size: float | None
    """Metres along x, or None where the config does not tell it."""
    num_classes: int | None
    trunk: None = None
    """No head of these detectors has layers that the trunk could start from."""

    @property
    def pixel_offset(self) -> float | None:
        """Half a voxel, in cells: where 3 x 3 convolutions of stride 2 put the centre of a cell."""
        return None if self.voxel_size is None else 0.5 * self.voxel_size / self.chosen.cell_size

    def report(self) -> str:
        """All of it as text, with lines for an ``EBM3DDetector`` that fit."""
        header = ("module", "map", "channels", "cells", "metres per cell", "")
        rows = [
            (
                each.module,
                str(each.index),
                str(each.channels),
                f"{each.rows} x {each.columns}",
                f"{each.cell_size:g}" if each.cell_size else "?",
                "used" if each == self.chosen else "-",
            )
            for each in self.maps
        ]
        widths = [max(map(len, column)) for column in zip(header, *rows)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in (header, *rows)
        ]
        values = dict(
            num_classes=self.num_classes,
            in_channels=self.chosen.channels,
            origin=list(self.origin),
            cell_size=self.chosen.cell_size,
        )
        if self.chosen.index:
            values["feature_level"] = self.chosen.index
        lines += ["", f"detector  {self.detector}", ""]
        lines += [f"For the EBM3DDetector: feature_source={self.chosen.module!r}"]
        lines += ["Lines for energy_head that fit:"]
        lines += [f"    {name}={value!r}," for name, value in values.items()]
        if self.pixel_offset is not None:
            lines.append(
                f"    pixel_offset=0.0,  # the paper's; {self.pixel_offset:.4g} where cells are "
                "centred on voxels (docs/lidar.md)"
            )
        lines += ["", "`python -m ebm_mmdet add-head` writes the whole config, `fit` trains it."]
        return "\n".join(lines)


def inspect_config_3d(cfg: Config) -> Inspection3D:
    """Build the detector of a config and run it on random points; nothing is loaded or trained.

    Args:
        cfg: config of a detector of mmdet3d; of an ``EBM3DDetector``, the detector inside is looked
            at.

    Raises:
        ValueError: the config has no model, or the model has no point cloud range or gives no map
            seen from above, as those for images or single points.
        RuntimeError: the detector does not run here.
    """
    model = cfg.get("model")
    if not model or "type" not in model:
        raise ValueError(f"{cfg.filename or 'the config'} has no model; give a detector's config")
    if model.get("detector") is not None and str(model["type"]).endswith("EBM3DDetector"):
        model = model["detector"]
    init_default_scope("mmdet3d")
    place = point_cloud_range(cfg)
    if not place:
        raise ValueError(
            f"{model['type']} has no point_cloud_range: it does not look at LiDAR points from "
            "above, as SECOND, PointPillars and CenterPoint do, and no energy head fits it"
        )
    detector = MODELS.build(ConfigDict(Config(dict(model=model)).to_dict()["model"])).eval()
    maps = _run_anywhere(detector, place, _point_dimensions(cfg, model))
    usable = [each for each in maps if each.cell_size]
    if not usable:
        raise ValueError(
            f"{type(detector).__name__} gives no map seen from above whose cells are squares; "
            "energy heads need one"
        )
    # The largest map of the neck: several are of different scales.
    first = usable[0].module
    chosen = min((each for each in usable if each.module == first), key=lambda one: one.cell_size)
    voxel = _first(model, "voxel_size")
    return Inspection3D(
        detector=type(detector).__name__,
        maps=maps,
        chosen=chosen,
        origin=(place[0], place[1]),
        voxel_size=float(voxel[0]) if isinstance(voxel, (list, tuple)) else None,
        num_classes=_num_classes(detector),
    )


def point_cloud_range(cfg: Config) -> list[float] | None:
    """``(x0, y0, z0, x1, y1, z1)`` of a detector in metres, or None if its config has none."""
    place = _first(cfg.get("model"), "point_cloud_range") or cfg.get("point_cloud_range")
    return [float(each) for each in place] if place else None


def _run_anywhere(detector: nn.Module, place: list[float], dimensions: int) -> list[BEVMap]:
    """:func:`_run` on a GPU if there is one, since some detectors need it; else on the CPU."""
    if torch.cuda.is_available():
        try:
            return _run(detector.cuda(), place, dimensions)
        except RuntimeError:
            detector.cpu()
    return _run(detector, place, dimensions)


@torch.no_grad()
def _run(detector: nn.Module, place: list[float], dimensions: int) -> list[BEVMap]:
    found: dict[str, list[Tensor]] = {}
    handles = []
    for name in (*NECKS, *OTHERS):
        module = getattr(detector, name, None)
        if isinstance(module, nn.Module):
            handles.append(
                module.register_forward_hook(
                    lambda _, __, output, name=name: found.__setitem__(name, list(_maps(output)))
                )
            )
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(POINTS, dimensions, generator=generator)
    low, high = torch.tensor(place[:3]), torch.tensor(place[3:])
    points[:, :3] = low + points[:, :3] * (high - low)
    sample = Det3DDataSample(metainfo=dict(box_type_3d=LiDARInstance3DBoxes))
    try:
        data = dict(inputs=dict(points=[points]), data_samples=[sample])
        data = detector.data_preprocessor(data, False)
        arguments = [data["inputs"]]
        if "batch_input_metas" in inspect.signature(detector.extract_feat).parameters:
            arguments.append([sample.metainfo])
        detector.extract_feat(*arguments)
    except Exception as error:  # whatever a detector of unknown make raises
        raise RuntimeError(
            f"{type(detector).__name__} does not run on random points here "
            f"({type(error).__name__}: {error}); docs/lidar.md has a table of usual values"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    rows = []
    for name in sorted(found, key=(*NECKS, *OTHERS).index):
        for index, each in enumerate(found[name]):
            height, width = each.shape[2:]
            sizes = (place[3] - place[0]) / width, (place[4] - place[1]) / height
            square = abs(sizes[0] - sizes[1]) < 0.02 * sizes[0]
            size = round(sizes[0], 4) if square else 0.0
            rows.append(BEVMap(name, index, each.shape[1], height, width, size))
    return rows


def _maps(output) -> Iterator[Tensor]:
    """The maps (B, C, H, W) in the output of a module."""
    if isinstance(output, Tensor):
        output = [output]
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        yield from (each for each in output if isinstance(each, Tensor) and each.dim() == 4)


def _first(config, name: str):
    """The first value of this name in a config, wherever it is."""
    if isinstance(config, Mapping):
        if config.get(name) is not None:
            return config[name]
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for each in config:
            found = _first(each, name)
            if found is not None:
                return found
    return None


def _point_dimensions(cfg: Config, model: Mapping) -> int:
    """Numbers of a point: those that the encoder takes, or those that the test pipeline loads."""
    encoder = model.get("voxel_encoder") or model.get("pts_voxel_encoder") or {}
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader")
    loaded = _first(loader["dataset"], "use_dim") if loader else None
    # The encoder's comes first: several sweeps are loaded with other numbers than the first.
    used = encoder.get("in_channels") or encoder.get("num_features") or loaded or 4
    return used if isinstance(used, int) else len(used)


def _num_classes(detector: nn.Module) -> int | None:
    """Of the head that classifies boxes; of a two-stage detector the first one's."""
    for name in ("bbox_head", "pts_bbox_head", "rpn_head"):
        head = getattr(detector, name, None)
        tasks = getattr(head, "class_names", None)  # of CenterPoint
        if tasks:
            return sum(len(each) for each in tasks)
        if isinstance(getattr(head, "num_classes", None), int):
            return head.num_classes
    return None
