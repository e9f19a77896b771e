"""Which images a fit trains on, tunes on, and judges on; what is wrong is said before any work."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.config import Config

from ..inspection import inner_datasets
from .classes import check_class_order, file_orders
from .items import probe, refuse_absent_files
from .kind import Kind

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

__all__ = ["FitData", "split_data"]

ENOUGH_TO_TUNE, MOST_TO_TUNE = 20, 200
"""With 16 images nearly all of the gain is found, with 4 two thirds; more than 200 only cost."""
_TOLD = ("bbox", "bbox_label", "ignore_flag", "bbox_3d", "bbox_label_3d")
"""What a data set tells of a box that a fit depends on."""
MOST_GENERATED = 20000
"""Items of a data set that makes them, such as one without end; no fit reads more."""


@dataclass(frozen=True)
class FitData:
    """The three parts of the data; images may be frames of points."""

    train: object
    """The training data set, with its own pipeline and wrappers."""
    indices: list[int]
    """Its items that may be trained on; repeated images occur several times."""
    images: int
    """Number of different images among them."""
    boxes: int
    """Number of their annotated boxes."""
    held_out: frozenset[str]
    """Keys of the training images that must not be trained on."""
    tune: Any
    """Training images that are not trained on."""
    judge: Any
    most_objects: int
    """Largest number of annotated boxes in an image."""
    judged_on_training_images: bool
    """There are no validation annotations: ``judge`` is a third part of the training images."""
    notes: list[str]
    """Sentences about the data for the page."""
    rest: Any = None
    """The training images that are trained on, as the detector reads them in its test."""
    digest: str = ""
    """Of the names of all images and of their boxes."""

    @property
    def max_dets(self) -> int:
        """Boxes of an image that are refined and evaluated: COCO's 100, or more if it has more."""
        return next((n for n in (100, 300, 1000) if n >= self.most_objects), self.most_objects)

    @property
    def max_dets_beyond_coco(self) -> int | None:
        """``max_dets``, or None if it is COCO's."""
        return self.max_dets if self.max_dets > 100 else None

    def object_size(self) -> float | None:
        """Median side of an object in pixels of the network's input, from 20 images at most."""
        sides = []
        for position in range(min(len(self.tune), 20)):
            boxes, _, ignored = self.tune.truth(position)
            boxes = boxes[~ignored]
            metainfo = self.tune[position]["data_samples"].metainfo
            scale = math.sqrt(math.prod(metainfo.get("scale_factor", (1.0, 1.0))))
            area = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
            sides += (scale * np.sqrt(area)).tolist()
        return float(np.median(sides)) if sides else None


def split_data(cfg: Config, seed: int, kind: Kind, classes: Sequence[str] | None = None) -> FitData:
    """Build the data sets of a config and split the training images.

    A tenth of the training images with boxes, at most 200, is kept for tuning; of fewer than 200
    images, 20 or a fifth. Where the validation set has no annotations, as many are kept for
    judging.

    Args:
        cfg: config with ``train_dataloader`` for whole images, and an energy head.
        seed: seed of the split.
        kind: of the boxes.
        classes: the detector's, if its checkpoint tells them.

    Raises:
        ValueError: there are too few images, labels do not fit the detector's classes or mean
            other classes in another file, a data set does not tell its images apart, or an item of
            it cannot be read by its pipeline.
        FileNotFoundError: some of the images are not there.
    """
    nouns = f"{kind.noun}s"
    train = _build(cfg.train_dataloader.dataset, kind)
    loader = cfg.get("val_dataloader") or cfg.get("test_dataloader")
    pipeline = _test_pipeline(loader, nouns)
    found = _build(loader.dataset, kind)
    orders = file_orders("training", train) + file_orders("validation", found)
    named = (getattr(train, "metainfo", None) or {}).get("classes")
    notes = check_class_order(orders, classes, named)
    num_classes = cfg.model.energy_head.num_classes
    seen = hashlib.sha256()
    keys, counts = _contents(train, num_classes, kind, "training", seen)
    order = list(dict.fromkeys(key for key, n in zip(keys, counts) if n))
    validation, most = None, max(counts, default=0)
    of_val, count = _contents(found, num_classes, kind, "validation", seen)
    if any(count):
        most = max(most, *count)
        validation = kind.item_set(found, range(len(found)), cfg)
        both = set(of_val) & set(keys)
        if both:
            notes.append(
                f"{len(both)} of the {len(found)} validation {nouns} are training {nouns} too: "
                "the table flatters all methods that learn."
            )
    parts = 2 if validation is None else 1
    if len(order) < parts + 1:
        there = f"{len(order)} {kind.noun}{'s' * (len(order) != 1)}"
        raise ValueError(
            f"the training data has {there} with boxes; at least {parts + 1} are "
            f"needed: one to train on, one to tune on{', one to judge on' if parts == 2 else ''}. "
            + (f"Annotate more {nouns}" if parts == 1 else "The validation set has no annotations")
        )
    number = _number_to_tune(len(order))
    shuffled = [order[i] for i in np.random.default_rng(seed).permutation(len(order))]
    for_tuning, for_judging = set(shuffled[:number]), set()
    plain = _build(kind.plain_dataset(cfg.train_dataloader.dataset, pipeline), kind)
    plain_keys = []
    for index in range(min(len(plain), len(keys))):
        info = plain.get_data_info(index)
        # By the test pipeline, which may want more.
        kind.count(plain, info, num_classes, "training")
        plain_keys.append(kind.key(info))

    def some(chosen: set[str]):
        return kind.item_set(plain, _first_of_each(plain_keys, chosen), cfg)

    if validation is None:
        for_judging = set(shuffled[number : 2 * number])
        validation = some(for_judging)
        notes.append(
            f"There are no validation annotations: {number} training {nouns} were judged on, which "
            "the head has not seen, but the detector has."
        )
    held_out = frozenset(for_tuning | for_judging)
    indices = [i for i, (key, n) in enumerate(zip(keys, counts)) if n and key not in held_out]
    boxes = sum({keys[i]: counts[i] for i in indices}.values())
    data = FitData(
        train=train,
        indices=indices,
        images=len(order) - len(held_out),
        boxes=boxes,
        held_out=held_out,
        tune=some(for_tuning),
        judge=validation,
        most_objects=most,
        judged_on_training_images=bool(for_judging),
        notes=notes + kind.limits(cfg, most),
        rest=some(set(order) - held_out),
        digest=seen.hexdigest(),
    )
    probe(kind.item_set(train, indices, cfg), "training")
    probe(data.tune, "training (read as for a test)")
    probe(data.judge, "validation")
    return data


def _number_to_tune(images: int) -> int:
    """A tenth, but at least 20 where that is not more than a fifth."""
    return max(min(max(images // 10, min(images // 5, ENOUGH_TO_TUNE)), MOST_TO_TUNE), 1)


def _build(dataset: Mapping, kind: Kind):
    built = kind.dataset(dataset)
    if hasattr(built, "full_init"):
        built.full_init()
    if not callable(getattr(built, "get_data_info", None)):
        raise ValueError(
            f"{type(built).__name__} has no get_data_info(index), by which {kind.noun}s are told "
            "apart and annotations read; mmengine's data sets and wrappers have it. Give the data "
            "set without this wrapper, or add the method"
        )
    return built


def _contents(
    dataset, num_classes: int, kind: Kind, part: str, seen: Hash
) -> tuple[list[str], list[int]]:
    """Key and number of usable boxes of each item; 1 where only the pipeline knows the boxes.

    Names and boxes are added to ``seen``.
    """
    keys: list[str] = []
    counts: list[int] = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        number = kind.count(dataset, info, num_classes, part)
        if number is None and index >= MOST_GENERATED:
            break
        keys.append(kind.key(info))
        seen.update(keys[-1].encode())
        for one in info.get("instances") or ():
            told = [one.get(name) for name in _TOLD]
            told = [x.tolist() if isinstance(x, np.ndarray) else x for x in told]
            seen.update(repr(told).encode())
        counts.append(int(_gives_boxes(dataset, kind)) if number is None else number)
    refuse_absent_files(keys, kind.noun, part)
    return keys, counts


def _gives_boxes(dataset, kind: Kind) -> bool:
    """Whether a data set that generates its images packs boxes; found by its first item."""
    if not hasattr(dataset, "_packs_boxes"):
        dataset._packs_boxes = kind.gives_boxes(dataset[0]["data_samples"])
    return dataset._packs_boxes


def _test_pipeline(loader: Mapping | None, nouns: str) -> Sequence[Mapping]:
    pipeline = inner_datasets(loader["dataset"])[0].get("pipeline") if loader else None
    if not pipeline:
        raise ValueError(
            "the config has no val_dataloader or test_dataloader with a pipeline, by which the "
            f"detector reads its {nouns}; add one, its data may be the training {nouns}"
        )
    return pipeline


def _first_of_each(keys: Sequence[str], chosen: set[str]) -> list[int]:
    """The first item of each chosen image."""
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        if key in chosen:
            first.setdefault(key, index)
    return sorted(first.values())
