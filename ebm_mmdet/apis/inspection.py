"""What a detector's config says about the energy head that would suit it; no checkpoint needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import nn

from ..models.detectors.dry_run import DryRun, default_source
from ..models.detectors.peculiarities import refuse_trackers, refuse_without_boxes
from ..models.detectors.trunk_init import shared_fcs
from ..models.feature_maps import fill_in_levels
from ..models.pixels import check_enlarge
from .config_faults import building
from .config_text import type_name
from .dry_run_image import run_as_in_test
from .map_choice import (
    ENOUGH_CELLS,
    WANTED_CELLS,
    MapRow,
    bins_for,
    finer_modules,
    levels_for,
    map_rows,
    order_of,
    size_rule,
)

__all__ = ["Inspection", "classes_of", "inner_datasets", "inspect_config", "roi_shift_of"]

POOL_SIZE = 7
"""Bins per axis of the energy head and of mmdet's box heads."""


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect_config` finds."""

    detector: str
    """Class name."""
    feature_source: str | list[str]
    """Dotted name of the module whose maps are used; or several, the others with finer maps."""
    rows: list[MapRow]
    """Maps of that module, then of the backbone and of its stages."""
    order: str
    """``'fine to coarse'``, ``'coarse to fine'``, ``'one map'`` or ``'mixed'``."""
    levels: dict
    """``in_channels``, ``strides``, ``feature_levels`` and, where they differ from the head's
    defaults, ``finest_scale`` and ``level_rule``; for a fresh trunk and objects of a known size
    ``pool_size``."""
    objects: str
    """What their size has to do with this choice."""
    num_classes: int | None
    """Of the detector's head, or None if it has none."""
    classes: tuple[str, ...] | None
    """Names in the ``metainfo`` of the training data, or None if the data set knows them."""
    trunk: tuple[int, ...] | None
    """Widths of the layers of the box head that the trunk can start from, or None."""
    trunk_source: str
    """Where these layers are, or why there are none."""
    roi_shift: float | list[float]
    """One number for all levels, or one for each."""
    roi_shift_reason: str
    image_scale: tuple[int, ...] | None
    """``scale`` of the test pipeline's resize, (width, height), or None if there is none."""
    pipeline: list[str]
    """Transforms of the test pipeline."""
    image: str
    """Which image was run, and its size."""
    image_faults: list[str]
    """Why other images of the config's test were not run; one line each."""
    enlarge: int = 1
    """Factor by which images are enlarged for the head; strides are those of the image as it is."""

    def report(self) -> str:
        """All of it as text, with lines for ``energy_head`` that fit."""
        return "\n".join([*self._table(), "", *self._facts(), "", *self._lines()])

    def _table(self) -> list[str]:
        header = ("module", "map", "channels", "stride", "", "")
        rows = [
            (
                row.module,
                str(row.index),
                str(row.map.channels),
                str(row.map.stride or "?"),
                "used" if row.chosen else "-",
                row.why,
            )
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(header, *rows)]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in (header, *rows)
        ]

    def _facts(self) -> list[str]:
        scale = "none" if self.image_scale is None else " x ".join(map(str, self.image_scale))
        first, more = (self.classes or ())[:5], len(self.classes or ()) > 5
        names = f" ({', '.join(first)}{', ...' if more else ''})"
        facts = {
            "detector": self.detector,
            "features": f"{_joined(self.feature_source)}, {self.order}",
            "objects": self.objects,
            "classes": f"{self.num_classes}{names if self.classes else ''}",
            "trunk": self.trunk_source,
            "roi_shift": f"{self.roi_shift}: {self.roi_shift_reason}",
            "image scale": scale,
            "test pipeline": ", ".join(self.pipeline) or "none",
            "image": self.image,
        }
        lines = [f"{name:14} {value}" for name, value in facts.items()]
        return lines + [f"{'':14} {fault}" for fault in self.image_faults]

    def _lines(self) -> list[str]:
        values = {"num_classes": self.num_classes, **self.levels, "roi_shift": self.roi_shift}
        lines = [f"    {name}={value!r}," for name, value in values.items()]
        lines = ["Lines for energy_head that fit:", *lines]
        wrapper = {}
        if not isinstance(self.feature_source, str):
            wrapper["feature_source"] = self.feature_source
        if self.enlarge > 1:
            wrapper["enlarge"] = self.enlarge
        said = ", ".join(f"{name}={value}" for name, value in wrapper.items())
        return [f"For the EBMDetector: {said}", *lines] if wrapper else lines


def inspect_config(cfg: Config, object_size: float | None = None, enlarge: int = 1) -> Inspection:
    """Build the detector of a config and run it on one image; nothing is loaded or trained.

    The image is one of the test or validation data, or a blank one where there is none
    (:func:`.dry_run_image.run_as_in_test`).

    Where objects have less than four cells of the finest map, finer ones of the backbone are read
    as well, until one gives them eight, and maps on which they have less than two cells are not. A
    trunk then does not start from a box head, which reads other maps. A fresh trunk has a bin for
    each cell of a usual object. Who enlarges images wants fine maps: fewer than eight cells are
    then too few.

    Args:
        cfg: config of an mmdet detector; of an ``EBMDetector``, the detector inside is looked at.
        object_size: usual side of an object, in pixels of the network's input.
        enlarge: factor by which the image is enlarged for the head (``EBMDetector``). Strides, also
            those of the rows, are in pixels of the image as it is.

    Raises:
        ValueError: the config has no model, the model cannot be built or predicts no boxes, none
            of its maps can be used, or ``enlarge`` is not a whole number from 1 on.
        RuntimeError: the detector does not run here, on a blank image either.
    """
    check_enlarge(enlarge)
    model = cfg.get("model")
    if not model or "type" not in model:
        raise ValueError(f"{cfg.filename or 'the config'} has no model; give a detector's config")
    if model.get("detector") is not None and str(model["type"]).endswith("EBMDetector"):
        model = model["detector"]
    init_default_scope(cfg.get("default_scope") or "mmdet")
    kind = MODELS.get(model["type"]) if isinstance(model["type"], str) else model["type"]
    if isinstance(kind, type):  # else it is not registered, as building it will say
        refuse_trackers(kind)
    detector = _build(model)
    refuse_without_boxes(detector)
    datasets = _test_datasets(cfg)
    run, image, image_faults = run_as_in_test(detector, datasets)
    run = run.enlarged(enlarge)
    source = default_source(detector)
    source = source if source in run.outputs else default_source(detector, run)
    if source is None:
        raise ValueError(
            f"{type(detector).__name__} has no neck or backbone that gives maps; choose a "
            f"feature_source yourself, out of {', '.join(run.candidates())}"
        )
    maps = run.outputs[source]
    levels = fill_in_levels({}, maps)
    trunk, trunk_source = _trunk(detector, levels)
    has_finer = bool(finer_modules(run, source, 0, levels["strides"]))
    enough = ENOUGH_CELLS if enlarge == 1 else WANTED_CELLS
    objects = size_rule(object_size, min(levels["strides"]), bool(trunk), has_finer, enough)
    finer = []
    if object_size is not None:
        finer = finer_modules(run, source, object_size, levels["strides"], enough)
    if finer and trunk:
        trunk, trunk_source = None, "starts fresh (the box head reads no finer maps)"
    if finer:
        levels = levels_for(object_size, maps, [run.outputs[name][0] for name in finer], levels)
    if object_size is not None and not trunk:
        levels["pool_size"] = bins_for(object_size, levels["strides"])
        levels["level_rule"] = "concat"  # where all maps are read, each has bins of its own
    shift, reason = (
        (-0.5, "where mmdet's box head reads, from which the trunk starts")
        if trunk
        else roi_shift_of(run, levels["strides"], enlarge)
    )
    pipeline = (datasets[0].get("pipeline") or []) if datasets else []
    return Inspection(
        detector=type(detector).__name__,
        feature_source=[source, *finer] if finer else source,
        rows=map_rows(run, source, finer, levels["feature_levels"]),
        order=order_of([each.stride for each in maps]),
        levels=levels,
        objects=objects,
        num_classes=_num_classes(detector),
        classes=classes_of(cfg),
        trunk=trunk,
        trunk_source=trunk_source,
        roi_shift=shift,
        roi_shift_reason=reason,
        image_scale=_scale(pipeline),
        pipeline=[type_name(step) for step in pipeline],
        image=image,
        image_faults=image_faults,
        enlarge=enlarge,
    )


def _build(model: Mapping) -> nn.Module:
    """The detector on the CPU in eval mode, from a copy: mmdet's detectors change their config."""
    with building("model"):
        detector = MODELS.build(ConfigDict(Config(dict(model=model)).to_dict()["model"]))
    detector.eval()  # not returned: mmdet's detectors with a teacher return nothing here
    return detector


def _joined(source: str | Sequence[str]) -> str:
    return source if isinstance(source, str) else " and ".join(source)


def _trunk(detector: nn.Module, levels: Mapping) -> tuple[tuple[int, ...] | None, str]:
    """Widths of the box head's layers that a trunk can start from, and a clause about them."""
    layers = shared_fcs(detector)
    if not layers:
        return None, "starts fresh (no box head with shared fully connected layers)"
    found, channels = layers[0].in_features, levels["in_channels"]
    if found != (channels if isinstance(channels, int) else -1) * POOL_SIZE**2:
        return None, f"starts fresh (the box head has {found} inputs, not {channels} x 7 x 7)"
    widths = tuple(layer.out_features for layer in layers)
    return widths, f"starts from roi_head.bbox_head.shared_fcs, {' and '.join(map(str, widths))}"


def roi_shift_of(
    run: DryRun, strides: Sequence[float], enlarge: int = 1
) -> tuple[float | list[float], str]:
    """Where cell i of each map lies, as ``roi_shift`` of the energy head, and a clause about it.

    Every convolution or pooling of stride s, kernel k and padding p puts its cell 0 at
    ``(k - 1) / 2 - p`` cells of the map that it reads; a reduction without one (slices, patches
    that are merged) at the middle of its cells. The sum o over the reductions of the backbone, in
    pixels, is the pixel that cell 0 is centred on, so that for each map

        roi_shift = -(o + 1/2) / stride

    Both are in pixels of the image that the network sees: in cells, an image that is enlarged has
    the same shift.

    Args:
        run: dry run of the detector.
        strides: of the maps that are used, in pixels of the image as it is.
        enlarge: factor by which the network's image is enlarged.

    Returns:
        One number, or a list where maps differ.
    """
    strides = [round(stride * enlarge) for stride in strides]
    centres = [_first_pixel(run, stride) for stride in strides]
    shifts = [round(-(centre + 0.5) / stride, 4) for centre, stride in zip(centres, strides)]
    places = [f"{stride} i + {centre:g}" for centre, stride in zip(centres, strides)]
    of = "" if enlarge == 1 else " of the enlarged image"
    said = f"cells i are centred on pixels {', '.join(places)}{of}"
    return (shifts[0] if len(set(shifts)) == 1 else shifts), said


def _first_pixel(run: DryRun, stride: int) -> float:
    """The pixel that cell 0 of a map is centred on."""
    first = {}
    for reduction in run.reductions:
        first.setdefault(reduction.stride, reduction)
    jump, centre = 1, 0.0
    while jump < stride:
        reduction = first.get(jump)
        factor = reduction.factor if reduction else 2
        centre += jump * (reduction.centre if reduction else (factor - 1) / 2)
        jump *= factor
    return centre


def _num_classes(detector: nn.Module) -> int | None:
    """``num_classes`` of the part of the detector that classifies boxes."""
    for path in ("roi_head.bbox_head", "bbox_head", "mask_head", "panoptic_fusion_head"):
        part = detector
        for name in path.split("."):
            part = getattr(part, name, None)
        part = part[0] if isinstance(part, nn.ModuleList) and len(part) else part
        if isinstance(getattr(part, "num_classes", None), int):
            return part.num_classes
    inner = [getattr(detector, name, None) for name in ("teacher", "student", "detector")]
    return next((_num_classes(each) for each in inner if isinstance(each, nn.Module)), None)


def inner_datasets(dataset: Mapping) -> list[Mapping]:
    """Configs of the data sets inside all wrappers and concatenations of one."""
    if "datasets" in dataset:
        return [inner for part in dataset["datasets"] for inner in inner_datasets(part)]
    return inner_datasets(dataset["dataset"]) if "dataset" in dataset else [dataset]


def classes_of(cfg: Config) -> tuple[str, ...] | None:
    """Names of the classes in the ``metainfo`` of the training data, or None if it has none."""
    loader = cfg.get("train_dataloader") or cfg.get("test_dataloader")
    for dataset in inner_datasets(loader["dataset"]) if loader else []:
        names = (dataset.get("metainfo") or {}).get("classes")
        if names:
            return (names,) if isinstance(names, str) else tuple(names)
    return None


def _test_datasets(cfg: Config) -> list[Mapping]:
    """Configs of the first data set of the test and of the validation; one where they are equal."""
    loaders = [cfg.get(name) for name in ("test_dataloader", "val_dataloader")]
    found = [inner_datasets(loader["dataset"])[0] for loader in loaders if loader]
    return found[:1] if found[:1] == found[1:] else found


def _scale(pipeline: Sequence[Mapping]) -> tuple[int, ...] | None:
    for step in pipeline:
        if "Resize" in type_name(step) and step.get("scale"):
            scale = step["scale"]
            return tuple(scale) if isinstance(scale, (list, tuple)) else (scale, scale)
    return None
