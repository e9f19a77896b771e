"""Which image a detector is run on to see its maps: one as its test reads it, if there is one."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmcv.transforms import Compose
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from ..models.detectors.dry_run import DryRun, dry_run
from ..models.detectors.peculiarities import single_image_preprocessor
from .config_text import type_name

__all__ = ["TestRun", "run_as_in_test"]

PHOTOGRAPH = (480, 640)
"""Height and width of a usual one."""


class TestRun(NamedTuple):
    """A run of a detector on an image as its test reads it."""

    __test__ = False  # no test, though pytest would take it for one

    run: DryRun
    image: str
    """Which image it was, and its size."""
    faults: list[str]
    """Why other images that the config gives were not run; one line each."""


class _AbsentData(Exception):
    """The files of a data set are not on this machine, as is usual for a look at a config."""


def run_as_in_test(detector: nn.Module, datasets: Sequence[Mapping]) -> TestRun:
    """Run a detector once on an image of a size that it is tested with, and say which it was.

    The image is, with the pipeline of the data set and the detector's preprocessor,

    1. the first one of the first data set that is there and can be read;
    2. else a blank photograph of 640 x 480 pixels through the pipeline of the first data set;
    3. else, where there is no pipeline or it fails, a blank square (:func:`dry_run`).

    A data set that is absent is no fault; one that is there and cannot be read is.

    Args:
        detector: the detector; it does not change.
        datasets: configs of data sets with a test pipeline, without wrappers.

    Raises:
        RuntimeError: the detector does not run here on a blank square.
    """
    choices: list[tuple[str, Callable[[], tuple[dict, str]]]] = [
        (f"the first image of {_name(each)}", functools.partial(_first_image, each))
        for each in datasets
    ]
    choices.append(("a blank image", functools.partial(_blank_photograph, datasets)))
    absent, faults = "", []
    for name, read in choices:
        try:
            item, image = read()
            run = dry_run(detector, _network_input(detector, item))
        except _AbsentData as error:
            absent = absent or f" (no test data here: {_one_line(error)})"
            continue
        except Exception as error:  # whatever a data set, pipeline or detector of any make raises
            faults.append(f"{name} cannot be run: {type(error).__name__}: {_one_line(error)}")
            continue
        return TestRun(run, f"{image}; the network reads {_size(run.shape)}{absent}", faults)
    run = dry_run(detector)
    return TestRun(run, f"blank, {_size(run.shape)}", faults)


def _first_image(config: Mapping) -> tuple[dict, str]:
    """The first item of a data set, and what it is."""
    with redirect_stdout(io.StringIO()):  # pycocotools tells what it does
        try:
            dataset = DATASETS.build(copy.deepcopy(config))
            if hasattr(dataset, "full_init"):
                dataset.full_init()
        except FileNotFoundError as error:
            raise _AbsentData(error) from error
        item = dataset[0]
    about = getattr(item["data_samples"], "metainfo", {})
    name = Path(about["img_path"]).name if about.get("img_path") else "the first image"
    size = f", {_size(about['ori_shape'])}" if about.get("ori_shape") else ""
    return item, f"{name} of {_name(config)}{size}"


def _blank_photograph(datasets: Sequence[Mapping]) -> tuple[dict, str]:
    """A blank image through the pipeline of the first data set, without what loads files."""
    pipeline = datasets[0].get("pipeline") if datasets else None
    if not pipeline:
        raise ValueError("the config has no test_dataloader with a pipeline")
    loads = [step for step in pipeline if type_name(step).startswith("Load")]
    grey = any(step.get("color_type") == "grayscale" for step in loads)
    dtype = np.float32 if any(step.get("to_float32") for step in loads) else np.uint8
    image = np.zeros(PHOTOGRAPH if grey else (*PHOTOGRAPH, 3), dtype)
    steps = Compose([copy.deepcopy(step) for step in pipeline if step not in loads])
    height, width = PHOTOGRAPH
    sizes = dict(img_shape=PHOTOGRAPH, ori_shape=PHOTOGRAPH, height=height, width=width)
    item = steps(dict(img=image, img_path="", img_id=0, instances=[], **sizes))
    return item, f"blank, {_size(PHOTOGRAPH)}, through the test pipeline"


def _network_input(detector: nn.Module, item: dict) -> Tensor:
    """(1, C, H, W) float32: an item as the detector's preprocessor gives it to the network."""
    inputs = single_image_preprocessor(detector)(pseudo_collate([item]), False)["inputs"]
    if not isinstance(inputs, Tensor):
        raise TypeError(f"the test pipeline gives {type(inputs).__name__} instead of one image")
    return inputs


def _name(config: Mapping) -> str:
    return str(config.get("ann_file") or config.get("type"))


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]} px"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
