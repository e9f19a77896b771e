"""A detector's training data, without what mixes images: the energy head learns from whole ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .config_text import type_name

__all__ = ["mixes_images", "whole_image_dataset"]

MIXES = ("CachedMixUp", "CachedMosaic", "CopyPaste", "MixUp", "Mosaic")
"""Transforms that make one image of several."""
COLOURS = ("PhotoMetricDistortion", "YOLOXHSVRandomAug")
"""Transforms that change colours alone."""


def mixes_images(dataset: Mapping) -> bool:
    """Whether a data set, or one inside it, makes one image of several or has a wrapper for it."""
    if type_name(dataset) == "MultiImageMixDataset":
        return True
    inside = dataset.get("datasets") or [dataset[key] for key in ("dataset",) if key in dataset]
    return _mixes(dataset.get("pipeline") or []) or any(mixes_images(each) for each in inside)


def whole_image_dataset(dataset: Mapping, test_pipeline: Sequence[Mapping]) -> dict:
    """The same data set with a pipeline for whole images in place of one that mixes them.

    Images are loaded, recoloured and flipped as in the detector's training, and resized and padded
    as in its test. Wrappers that repeat or balance a data set stay; ``MultiImageMixDataset`` goes.

    Args:
        dataset: config of the training data.
        test_pipeline: config of the detector's test pipeline.

    Raises:
        ValueError: the data is that of a semi-supervised training, whose images have no boxes.
    """
    dataset = dict(dataset)
    if "datasets" in dataset:
        parts = [whole_image_dataset(part, test_pipeline) for part in dataset["datasets"]]
        return {**dataset, "datasets": parts}
    if "dataset" in dataset and type_name(dataset) == "MultiImageMixDataset":
        inner = dict(dataset["dataset"])
        pipeline = [*(inner.get("pipeline") or []), *(dataset.get("pipeline") or [])]
        inner["pipeline"] = _whole(pipeline, test_pipeline) if _mixes(pipeline) else pipeline
        return inner
    if "dataset" in dataset:
        return {**dataset, "dataset": whole_image_dataset(dataset["dataset"], test_pipeline)}
    pipeline = dataset.get("pipeline") or []
    if any(type_name(step) == "MultiBranch" for step in pipeline):
        raise ValueError(
            "train_dataloader is that of a semi-supervised training (MultiBranch); set it to "
            "annotated images with an ordinary pipeline: load, Resize, RandomFlip, PackDetInputs"
        )
    if _mixes(pipeline):
        dataset["pipeline"] = _whole(pipeline, test_pipeline)
    return dataset


def _mixes(pipeline: Sequence[Mapping]) -> bool:
    return any(type_name(step) in MIXES for step in pipeline)


def _whole(train: Sequence[Mapping], test: Sequence[Mapping]) -> list[Mapping]:
    """Load, resize as in the test, recolour, flip, pad as in the test, filter, pack."""

    def steps(pipeline: Sequence[Mapping], chosen) -> list[Mapping]:
        return [step for step in pipeline if chosen(type_name(step))]

    return [
        *steps(train, lambda name: name.startswith("Load")),
        *steps(test, lambda name: "Resize" in name),
        *steps(train, lambda name: name in COLOURS),
        *steps(train, lambda name: name == "RandomFlip")[:1],
        *steps(test, lambda name: name == "Pad"),
        *steps(train, lambda name: name == "FilterAnnotations"),
        *steps(train, lambda name: name.startswith("Pack"))[-1:],
    ]
