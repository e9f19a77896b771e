"""Whether detector and data mean the same by a label, as far as their files tell.

mmdet numbers the labels of a file in COCO's format in the order of its ``categories``, whatever
``metainfo['classes']`` says. So a detector that was trained on such a file has that order, and its
checkpoint does not tell it: what can be compared is how files are numbered.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config

from ...datasets.coco_check import class_order, class_order_of_file
from ..inspection import inner_datasets
from .items import parts_of

__all__ = [
    "check_class_order",
    "check_classes",
    "classes_of_checkpoint",
    "file_orders",
    "training_file_orders",
]


def classes_of_checkpoint(loaded: Mapping) -> tuple[str, ...] | None:
    """Names of the classes that a checkpoint was trained on, or None if it does not tell.

    Args:
        loaded: its content, of mmdet 2 or 3, or a state dict.
    """
    meta = loaded.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    for part in (meta.get("dataset_meta"), meta):
        for key in ("classes", "CLASSES") if isinstance(part, Mapping) else ():
            if part.get(key):
                return _names(part[key])
    return None


def check_classes(
    cfg: Config, num_classes: int, known: Sequence[str] | None, checkpoint: str | os.PathLike
) -> list[str]:
    """Compare the classes of a detector with those of a config's data, before files are read.

    Panoptic data, whose classes are not those of its boxes alone, are not looked at.

    Args:
        cfg: config with the data sets.
        num_classes: of the detector's head.
        known: the detector's classes, if its checkpoint tells them.
        checkpoint: its name, for messages.

    Returns:
        A sentence where as many classes have other names.

    Raises:
        ValueError: the numbers of classes differ.
    """
    notes: dict[str, None] = {}
    judged = next((name for name in ("val_dataloader", "test_dataloader") if cfg.get(name)), None)
    loaders = ["train_dataloader", *([judged] if judged else [])]
    for loader, dataset in ((name, each) for name in loaders for each in _data_sets(cfg, name)):
        theirs = _classes_in_config(dataset)
        if theirs is None:
            continue
        number = num_classes if known is None else len(known)
        ours = f"{number} classes" + (f", {_some(known)}" if known else " (num_classes)")
        if len(theirs) != number:
            raise ValueError(
                f"the detector of {checkpoint} has {ours}, but the data of {loader} has "
                f"{len(theirs)}, {_some(theirs)}: labels of one would be compared with labels of "
                "the other. Give a checkpoint that was trained on these classes, or set "
                "metainfo=dict(classes=(...)) of the data sets to those of the detector, all of "
                "them, which the annotation files must have among their categories"
            )
        if known is not None and tuple(theirs) != tuple(known):
            label = next(i for i in range(number) if theirs[i] != known[i])
            line = (
                f"The classes of the detector are {_some(known)}, and those of the data "
                f"{_some(theirs)}: as many, and label {label} of the one, {known[label]!r}, "
                f"counts as that of the other, {theirs[label]!r}. If they are not the same, give "
                "a checkpoint that was trained on these classes."
            )
            notes[line] = None
    return list(notes)


def file_orders(part: str, dataset) -> list[tuple[str, tuple[str, ...]]]:
    """Annotation files of a data set, also inside wrappers, with their classes by label.

    Args:
        part: name of the data, for a file without one.
        dataset: the data set.
    """
    orders = ((each, class_order(each)) for each in parts_of(dataset))
    return [
        (str(getattr(each, "ann_file", "") or f"the {part} data"), order)
        for each, order in orders
        if order is not None
    ]


def training_file_orders(cfg: Config) -> list[tuple[str, tuple[str, ...]]]:
    """:func:`file_orders` of a config's training data, of whose files the categories are read.

    Files that are not on this machine, and those of another format than COCO's, are left out.

    Raises:
        AnnotationError: a file cannot be read.
    """
    found = []
    for dataset in _data_sets(cfg, "train_dataloader"):
        kind, classes = _type_of(dataset), _classes_in_config(dataset)
        reads = isinstance(kind, type) and issubclass(kind, CocoDataset)
        if not reads or kind.COCOAPI is not CocoDataset.COCOAPI:
            continue
        path = os.path.join(dataset.get("data_root") or "", dataset.get("ann_file") or "")
        if os.path.isfile(path) and classes and len(classes) > 1:
            found.append((path, class_order_of_file(path, classes)))
    return found


def check_class_order(
    orders: Sequence[tuple[str, tuple[str, ...]]], *classes: Sequence[str] | None
) -> list[str]:
    """Compare how annotation files number their classes, with each other and with names.

    Where all files have the same order, a detector that was trained on them has it too, so that
    only names are wrong if it is not that of ``classes``.

    Args:
        orders: of :func:`file_orders` or :func:`training_file_orders`.
        classes: the detector's; then those of the data, which count if the detector's are not
            known or have other names.

    Returns:
        A sentence if the files agree, but not with the names.

    Raises:
        ValueError: a label is one class in one file, and another class in another file.
    """
    if not orders:
        return []
    first, names = orders[0]
    known = next((each for each in classes if each and set(names) <= set(each)), names)
    for other, theirs in orders[1:]:
        label = _first_difference(names, theirs)
        if label is not None:
            raise ValueError(
                f"mmdet numbers labels in the order of the categories of a file: label {label} is "
                f"{names[label]!r} in {first} ({_some(names)}), and {theirs[label]!r} in {other} "
                f"({_some(theirs)}). Put the entries of 'categories' into the same order, that of "
                "the file that the detector was trained on; ids and annotations stay as they are. "
                f"The detector's classes are {_some(known)}"
            )
    label = _first_difference(names, known)
    if label is None:
        return []
    return [
        f"mmdet numbers labels in the order of the categories of a file: label {label} is "
        f"{names[label]!r} in {first} ({_some(names)}), and {known[label]!r} in the detector's "
        f"classes ({_some(known)}). That is right if the detector was trained on files in this "
        "order, and then only names in pictures and tables are wrong; otherwise its labels are "
        "compared with those of other classes: put the entries of 'categories' into the order of "
        "the classes."
    ]


def _first_difference(one: Sequence[str], other: Sequence[str]) -> int | None:
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), None)


def _data_sets(cfg: Config, loader: str) -> list[Mapping]:
    """Configs of the data sets of a loader, inside all wrappers; none if there is no loader."""
    return inner_datasets(cfg[loader]["dataset"]) if cfg.get(loader) else []


def _type_of(dataset: Mapping) -> object:
    kind = dataset.get("type")
    return DATASETS.get(kind) if isinstance(kind, str) else kind


def _classes_in_config(dataset: Mapping) -> tuple[str, ...] | None:
    """The classes of a data set that is not built; None if they are not known.

    Nor are those of other registries than mmdet's: a 3D detector may have learned several as one.
    """
    kind = _type_of(dataset)
    if not isinstance(kind, type):
        return None
    meta = {**(getattr(kind, "METAINFO", None) or {}), **(dataset.get("metainfo") or {})}
    classes = meta.get("classes")
    if not classes or "thing_classes" in meta:
        return None
    # mmengine reads the names from a file of that name.
    return None if isinstance(classes, str) and os.path.isfile(classes) else _names(classes)


def _names(classes: str | Sequence[str]) -> tuple[str, ...]:
    return (classes,) if isinstance(classes, str) else tuple(classes)


def _some(names: Sequence[str], most: int = 10) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + rest
