"""The data of the demo: generated shapes, or a user's folder in COCO format."""

from __future__ import annotations

import json
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from ebm_mmdet.datasets import AnnotationError, write_coco
from ebm_mmdet.datasets.annotation_check import complete_annotations

from ..world import DataError

LAYOUT = (
    "expected layout: DIR/annotations/train.json and DIR/annotations/val.json in COCO format, "
    "and the images that they name in DIR/images/"
)
NUM_IMAGES = {"train": 400, "val": 150}
# The longer side of a user's images: at least four times the area of the generated ones.
USER_IMAGE_SIZE = 320
_SEEDS = {"train": 1, "val": 2}


class DemoData(NamedTuple):
    """A folder in the layout above."""

    root: Path
    classes: tuple[str, ...]
    generated: bool


def generate(root: Path, cfg: Config, num_images: dict[str, int]) -> DemoData:
    """Write the fixed sets of generated shapes, unless they exist.

    Args:
        root: Output folder.
        cfg: Config of the energy head; its `ShapesDataset` has the settings of the images.
        num_images: Number of images of each split.
    """
    endless = cfg.train_dataloader.dataset
    for split, count in num_images.items():
        if not (root / "annotations" / f"{split}.json").exists():
            write_coco(
                root,
                split,
                count,
                _SEEDS[split],
                image_size=tuple(endless.image_size),
                extent=tuple(endless.extent),
            )
    return DemoData(root, tuple(cfg.classes), generated=True)


def check_folder(root: Path) -> DemoData:
    """Check a user's folder before minutes are spent on it.

    Raises:
        DataError: A folder, annotation file or image is missing, or an annotation file is not in
            COCO format.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; {LAYOUT}")
    names = {}
    for split in ("train", "val"):
        file = root / "annotations" / f"{split}.json"
        if not file.is_file():
            raise DataError(f"{file} is missing; {LAYOUT}")
        try:
            content = json.loads(file.read_text())
        except ValueError as error:
            raise DataError(f"{file} is not valid JSON: {error}") from error
        for key in ("images", "annotations", "categories"):
            if not isinstance(content, dict) or not content.get(key):
                raise DataError(f"{file} has no {key!r}, or an empty list of them; {LAYOUT}")
        try:
            complete_annotations(content, str(file))
        except AnnotationError as error:
            raise DataError(str(error)) from error
        absent = [
            image["file_name"]
            for image in content["images"]
            if not (root / "images" / image["file_name"]).is_file()
        ]
        if absent:
            raise DataError(
                f"{len(absent)} of the {len(content['images'])} images that {file} names are not "
                f"in {root / 'images'}, the first is {absent[0]}; {LAYOUT}"
            )
        names[split] = tuple(category["name"] for category in content["categories"])
    if names["train"] != names["val"]:  # mmdet numbers classes in the order of the file
        first = next(pair for pair in zip_longest(*names.values()) if pair[0] != pair[1])
        raise DataError(
            f"train.json and val.json of {root / 'annotations'} must have the same categories in "
            f"the same order; the first that differ are {first[0]} (train) and {first[1]} (val)"
        )
    return DemoData(root, names["train"], generated=False)


def use_data(cfg: Config, data: DemoData) -> None:
    """Let a demo config (detector or energy head) use a folder; changes it in place."""
    root = f"{data.root}/"
    cfg.train_dataset.data_root = root
    train = cfg.train_dataloader.dataset
    if train.type != "ShapesDataset" or not data.generated:
        cfg.train_dataloader.dataset = train = cfg.train_dataset
        cfg.train_dataloader.sampler.shuffle = True
    fixed = [cfg.val_dataloader.dataset, cfg.test_dataloader.dataset]
    for dataset in fixed + [train] * (train.type != "ShapesDataset"):
        dataset.data_root = root
        dataset.metainfo = dict(classes=data.classes)
        if not data.generated:
            for step in dataset.pipeline:
                if step.type == "Resize":
                    step.scale = (USER_IMAGE_SIZE, USER_IMAGE_SIZE)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = root + "annotations/val.json"
    if not data.generated:
        cfg.train_dataloader.batch_size = 4
    detector = cfg.model.get("detector", cfg.model)
    detector.bbox_head.num_classes = len(data.classes)
    if "energy_head" in cfg.model:
        cfg.model.energy_head.num_classes = len(data.classes)
