"""Images that are trained on and validated on, as when one of two splits was changed alone."""

from __future__ import annotations

import os

from mmengine.logging import print_log

from .datasets.generated_dataset import GeneratedRegressionDataset
from .datasets.regression_dataset import TargetDataset

__all__ = ["report_overlap"]


def report_overlap(training: object, validation: object) -> None:
    """Warn if images of a validation set are in the training set too.

    The division is a function of all arguments of a split but its ``part``. A seed that
    ``--cfg-options`` gives to the training set alone makes two divisions, and their parts overlap.
    Generated sets of one seed are the same images.

    Args:
        training: a data set; of others than files with targets, and generated ones, nothing is
            known.
        validation: likewise.
    """
    found = _images(validation)
    both = found & _images(training) if found else found
    if not both:
        return
    splits = getattr(training, "split", None), getattr(validation, "split", None)
    hint = f"give both the same `split` but for its part; they are {splits[0]} and {splits[1]}"
    if isinstance(validation, GeneratedRegressionDataset):
        hint = f"both have seed={validation.seed}; give them different ones"
    elif None in splits:
        hint = "give both a `split`, or different tables"
    print_log(
        f"{len(both)} of the {len(found)} images of the validation set are in the training set "
        f"too, such as {min(both)}: results will look better than they are; {hint}",
        "current",
        level=30,
    )


def _images(dataset: object) -> set[str]:
    """Paths of the images, each once; empty if they are not known."""
    if isinstance(dataset, GeneratedRegressionDataset):
        return {dataset.img_path(index) for index in range(len(dataset))}
    if not isinstance(dataset, TargetDataset):
        return set()
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    return {os.path.normpath(info["img_path"]) for info in infos}
