"""Reads items of a user's data set; what cannot be read is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmdet.datasets.transforms import LoadAnnotations

__all__ = [
    "UnreadableItem",
    "parts_of",
    "probe",
    "read_item",
    "refuse_absent_files",
    "refuse_without_polygons",
]


class UnreadableItem(ValueError):
    """A file of an item is absent, broken or another; repaired, the same call goes on."""


def read_item(dataset, index: int, key: Callable[[Mapping], str]) -> dict:
    """``dataset[index]``, an item of the data set's pipeline.

    Args:
        dataset: the data set.
        index: of the item.
        key: from ``dataset.get_data_info(index)`` to the item's name, for the message.

    Raises:
        UnreadableItem: the pipeline raises something, such as for a broken image, or the image has
            another size than the annotations state; the message has the item, its annotation file
            and a remedy.
        ValueError: likewise, where the pipeline itself has to change.
    """
    try:
        item = dataset[index]
        missing = [name for name in ("inputs", "data_samples") if name not in item]
        if missing:
            raise LookupError(f"no {' and no '.join(missing)} in what it gives")
    except Exception as error:  # whatever a pipeline raises
        name = key(dataset.get_data_info(index))
        kind = ValueError if isinstance(error, LookupError) else UnreadableItem
        raise kind(
            f"{_named(name, dataset)} cannot be read by the data set's pipeline "
            f"({type(error).__name__}: {error}); {_remedy(error)}"
        ) from error
    _refuse_other_size(dataset, index, item["data_samples"], key)
    return item


def _refuse_other_size(dataset, index: int, sample: Any, key: Callable[[Mapping], str]) -> None:
    """Raise if an image is not of the size for which its boxes are meant.

    Width and height of most annotation formats are looked at; other data sets give none.
    """
    meta, ask = getattr(sample, "metainfo", {}), getattr(dataset, "get_data_info", None)
    if not meta.get("ori_shape") or not callable(ask):
        return
    info = ask(index)
    # mmengine's data sets give another image if an augmentation has left none of the boxes.
    same = all(meta[name] == info.get(name) for name in ("img_path", "img_id") if name in meta)
    stated = (info.get("width"), info.get("height"))
    known = all(isinstance(side, (int, float)) and side > 0 for side in stated)
    found = (meta["ori_shape"][1], meta["ori_shape"][0])
    if same and known and stated != found:
        raise UnreadableItem(
            f"{_named(key(info), dataset)} has {found[0]} x {found[1]} pixels, but width and "
            f"height of its annotation are {stated[0]} x {stated[1]}, so that its boxes may be at "
            "other places; give the image that was annotated, or correct width and height, and "
            "the boxes if they are for this size"
        )


def _remedy(error: Exception) -> str:
    """What a user can do about an error of a pipeline."""
    if isinstance(error, FileNotFoundError):
        return "get the file, or correct data_root and data_prefix; the same command goes on"
    if isinstance(error, KeyError) and error.args == ("mask",):
        return _WITHOUT_POLYGONS
    if isinstance(error, KeyError):
        return (
            f"a transform reads {error.args[0]!r}, which the data set does not give: choose the "
            "loaders of the pipeline for this data, or leave the transform out"
        )
    if isinstance(error, LookupError):
        return "let the pipeline end with PackDetInputs, or with Pack3DDetInputs for frames"
    return "repair it, and the same command goes on"


_WITHOUT_POLYGONS = (
    "give its boxes polygons ('segmentation'), or set with_mask=False in LoadAnnotations of this "
    "pipeline: a fit needs boxes only"
)


def refuse_without_polygons(dataset, info: Mapping, name: str) -> None:
    """Raise if the pipeline loads masks, and a box of the item has none.

    Args:
        dataset: an mmdet data set or a wrapper of it.
        info: ``dataset.get_data_info(index)``.
        name: of the item, for the message.

    Raises:
        ValueError: the message has the item and its annotation file.
    """
    absent = sum("mask" not in one for one in info.get("instances", ()))
    if absent and any(_loads_masks(step) for step in _steps(dataset)):
        raise ValueError(
            f"{_named(name, dataset)} has {absent} of {len(info['instances'])} boxes without a "
            f"polygon, but the pipeline loads masks (LoadAnnotations); {_WITHOUT_POLYGONS}"
        )


def parts_of(dataset) -> Iterator[Any]:
    """The data set and those inside it."""
    yield dataset
    inside = [*getattr(dataset, "datasets", ())]
    if hasattr(dataset, "dataset"):
        inside.append(dataset.dataset)
    for each in inside:
        yield from parts_of(each)


def _steps(dataset) -> Iterator[Any]:
    """Transforms of the data set and of those inside it."""
    for each in parts_of(dataset):
        pipeline = getattr(each, "pipeline", None)
        yield from getattr(pipeline, "transforms", pipeline or ())


def _loads_masks(step) -> bool:
    """Whether a transform reads the mask of every box, as those with a panoptic map do not."""
    return type(step) is LoadAnnotations and bool(step.with_mask)


def _named(name: str, dataset) -> str:
    """An item with the annotation files that it may be from."""
    found = [str(getattr(each, "ann_file", "")) for each in parts_of(dataset)]
    files = dict.fromkeys(filter(None, found))
    return f"{name}, of {' or '.join(files)}," if files else name


def refuse_absent_files(keys: Sequence[str], noun: str, part: str) -> None:
    """Raise if some items of a data set are files that are there, and others are not.

    Where none is, the data set does not read files of this machine, or its folder is wrong: then
    the first item that is read says so.

    Args:
        keys: of the items; paths, if these are files.
        noun: what an item is, for the message.
        part: of the data, for the message.

    Raises:
        FileNotFoundError: the message has the first file that is absent.
    """
    files = list(dict.fromkeys(keys))
    absent = [name for name in files if not os.path.isfile(name)]
    if 0 < len(absent) < len(files):
        raise FileNotFoundError(
            f"{len(absent)} of the {len(files)} {noun}s of the {part} data are not there, the "
            f"first is {absent[0]}. Get them, or leave them out of the annotation file"
        )


def probe(items: Any, part: str) -> None:
    """Read the first item with objects as it will be read later, before any time is spent.

    Args:
        items: some items of a data set, see :class:`.kind.Items`.
        part: of the data, for the message.

    Raises:
        ValueError: it cannot be read.
    """
    first = 0
    for position, index in enumerate(items.indices):
        info = items.dataset.get_data_info(index)
        if info.get("instances"):
            first = position
        if "instances" not in info or info["instances"]:
            break
    try:
        items[first]
    except ValueError as error:
        raise ValueError(f"the {part} data cannot be used: {error}") from error
