"""Counting on crops of annotated images: how many objects have their centre inside?"""

from __future__ import annotations

import json
import math
import threading
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.registry import DATASETS
from mmengine.fileio import join_path

from .image_file import find_missing_files, read_image
from .regression_dataset import TargetDataset
from .target_space import TargetError, check_targets, complete_target

__all__ = ["CropCountDataset"]

_MOST_CACHED = 4 * 2**30


class _LastImage:
    """Reads images and keeps the last one; threads may share it, and a copy begins empty."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[str, np.ndarray] = ("", np.empty(0))

    def __reduce__(self) -> tuple:
        return _LastImage, ()

    def __call__(self, path: str) -> np.ndarray:
        with self._lock:
            if self._last[0] != path:
                self._last = (path, read_image(path))
            return self._last[1]


@DATASETS.register_module()
class CropCountDataset(TargetDataset):
    """Crops of images annotated in COCO format; the target is the number of objects.

    Crops lie on a grid from the upper left corner; what does not fill a crop at the right and lower
    edges is not used. An object belongs to the crop that holds its centre, which is the
    annotation's ``centroid`` (x, y) if there is one, and otherwise the middle of its box. So with
    ``stride == crop_size`` every object is counted once at most, also if a border cuts it.
    Annotations with ``iscrowd=1`` are not counted.

    A sample brings its image along, ``img`` (H, W, 3) uint8 BGR; its ``group`` is the name of the
    image's file. Split by image, never by crop: use different annotation files, or
    ``split=dict(kind='group', ...)``.

    Args:
        ann_file: annotations in COCO format.
        max_count: largest count of a crop that may occur; the declared range is 0 to this.
        data_root: folder of the annotations and the images.
        data_prefix: ``dict(img_path='images')``, the folder of the images.
        crop_size: width and height of a crop in pixels.
        stride: distance of two crops; None for `crop_size`.
        output_size: width and height to which crops are shrunk (by areas); None to keep them.
        category: name of the category to count; None for all.
        cache: keep the crops in memory. ``full_init`` reads every image once, where otherwise
            each access to a crop decodes its whole image, unless it is the image read last.
        metainfo: ``dict(target=dict(names=..., units=...))``, both optional here.
        split: see :func:`~ebm_mmdet.regression.split_indices`.
        **kwargs: arguments of mmengine's ``BaseDataset``.

    Raises:
        FileNotFoundError: the annotations or an image do not exist.
        TargetError: the annotations are not as described, an image is smaller than a crop or has
            another size than they say (noticed when it is read: at once with `cache`), a count is
            above `max_count`, or the cache would be larger than 4 GiB.
    """

    def __init__(
        self,
        ann_file: str,
        max_count: int,
        data_root: str = "",
        data_prefix: Mapping[str, str] | None = None,
        crop_size: int = 128,
        stride: int | None = None,
        output_size: int | None = 64,
        category: str | None = None,
        cache: bool = True,
        metainfo: Mapping[str, Any] | None = None,
        split: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.crop_size, self.stride = int(crop_size), int(stride or crop_size)
        self.output_size = output_size
        if min(self.crop_size, self.stride, output_size or 1) < 1:
            raise ValueError(
                f"crop_size={crop_size}, stride={stride}, output_size={output_size}; expected at "
                "least one pixel"
            )
        self.category = category
        self.cache = cache
        self._crops: dict[tuple, np.ndarray] = {}
        self._images = _LastImage()
        metainfo = dict(metainfo or {})
        defaults = {"names": ("count",), "flip_signs": (1,), "integer": True}
        target = {**defaults, "ranges": ((0, max_count),), **metainfo.get("target", {})}
        metainfo["target"] = complete_target(target, ann_file)
        super().__init__(
            ann_file=ann_file,
            metainfo=metainfo,
            data_root=data_root,
            data_prefix=dict(data_prefix or {"img_path": "images"}),
            split=split,
            **kwargs,
        )

    def load_targets(self) -> list[dict]:
        """Count the objects of every crop."""
        images, centres = self._read()
        samples, places = [], []
        for entry in images:
            height, width = int(entry["height"]), int(entry["width"])
            if min(height, width) < self.crop_size:
                raise TargetError(
                    f"{self.ann_file}: the image {entry['file_name']!r} has {width} x {height} "
                    f"pixels, which is less than a crop of {self.crop_size}"
                )
            path = join_path(self.data_prefix["img_path"], entry["file_name"])
            points = centres[entry["id"]]
            for top in range(0, height - self.crop_size + 1, self.stride):
                for left in range(0, width - self.crop_size + 1, self.stride):
                    offsets = points - (left, top)
                    inside = ((offsets >= 0) & (offsets < self.crop_size)).all(1)
                    samples.append(
                        {
                            "img_path": path,
                            "crop": (left, top),
                            "stated_shape": (height, width),
                            "group": str(entry["file_name"]),
                            "gt_target": np.array([inside.sum()], np.float32),
                        }
                    )
                    places.append(f"{self.ann_file}: {entry['file_name']}, crop at {left}, {top}")
        if not samples:
            raise TargetError(f"{self.ann_file} has no images")
        targets = np.stack([sample["gt_target"] for sample in samples])
        check_targets(targets, self._metainfo["target"], lambda i: places[i])
        wrong = find_missing_files(sorted({sample["img_path"] for sample in samples}))
        if wrong:
            path = sorted({sample["img_path"] for sample in samples})[wrong[0][0]]
            raise FileNotFoundError(
                f"the image {path} {wrong[0][1]}, and {len(wrong)} of {len(images)} images cannot "
                "be read; set data_root and data_prefix=dict(img_path=...)"
            )
        return samples

    def _read(self) -> tuple[list[dict], dict[Any, np.ndarray]]:
        """Return the entries of images, and the objects' centres ``(n, 2)`` of each image."""
        try:
            content = json.loads(Path(self.ann_file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"the annotations {self.ann_file} do not exist") from None
        except ValueError as error:
            raise TargetError(f"{self.ann_file} is not valid JSON: {error}") from None
        try:
            chosen = None
            if self.category is not None:
                chosen = {c["id"] for c in content["categories"] if c["name"] == self.category}
                if not chosen:
                    names = ", ".join(repr(c["name"]) for c in content["categories"])
                    raise TargetError(
                        f"{self.ann_file} has no category {self.category!r}; it has {names}"
                    )
            known = {entry["id"] for entry in content["images"]}
            points = defaultdict(list)
            self._check_categories(content)
            for entry in content["annotations"]:
                if entry.get("iscrowd", 0) or (chosen and entry["category_id"] not in chosen):
                    continue
                if entry["image_id"] not in known:
                    raise TargetError(
                        f"{self.ann_file}: an annotation belongs to the image "
                        f"{entry['image_id']!r}, which is not in the file"
                    )
                if "centroid" in entry:
                    x, y = entry["centroid"]
                else:
                    left, top, width, height = entry["bbox"]
                    x, y = left + width / 2, top + height / 2
                if not (math.isfinite(x) and math.isfinite(y)):
                    raise TargetError(
                        f"{self.ann_file}: an object of the image {entry['image_id']!r} has its "
                        f"centre at {x}, {y}, which is in no crop; correct or remove it"
                    )
                points[entry["image_id"]].append((float(x), float(y)))
            images = [
                {key: entry[key] for key in ("id", "file_name", "height", "width")}
                for entry in content["images"]
            ]
        except (KeyError, TypeError) as error:
            raise TargetError(
                f"{self.ann_file} is not in COCO format: {type(error).__name__} {error}; expected "
                "'images' (id, file_name, height, width) and 'annotations' (image_id, bbox)"
            ) from None
        return images, {
            entry["id"]: np.array(points[entry["id"]], np.float64).reshape(-1, 2)
            for entry in images
        }

    def _check_categories(self, content: Mapping[str, Any]) -> None:
        """Refuse annotations of no category, whose objects would silently not be counted."""
        if self.category is None:
            return
        known = {category["id"] for category in content["categories"]}
        for entry in content["annotations"]:
            if entry["category_id"] not in known:
                raise TargetError(
                    f"{self.ann_file}: an annotation of the image {entry['image_id']!r} has the "
                    f"category_id {entry['category_id']!r}, and the categories have "
                    f"{sorted(known, key=str)!r}: '1' and 1 are two ids. Correct the file"
                )

    def full_init(self) -> None:
        """Count, and read the crops if they are to be kept."""
        super().full_init()
        if not self.cache or self._crops:
            return
        size = self.output_size or self.crop_size
        if len(self) * size * size * 3 > _MOST_CACHED:
            raise TargetError(
                f"cache=True would keep {len(self)} crops in "
                f"{len(self) * size * size * 3 / 2**30:.1f} GiB; set cache=False"
            )
        # By place and not by number, so that a subset of the data set finds its crops too.
        crops = {}
        for i in range(len(self)):
            info = self.get_data_info(i)
            crops[info["img_path"], info["crop"]] = self._read_crop(info)
        self._crops = crops

    def _read_crop(self, info: Mapping[str, Any]) -> np.ndarray:
        image = self._images(info["img_path"])
        (left, top), (height, width) = info["crop"], info["stated_shape"]
        if image.shape[:2] != (height, width):
            raise TargetError(
                f"the image {info['img_path']} has {image.shape[1]} x {image.shape[0]} pixels, and "
                f"{self.ann_file} says {width} x {height}; give the images that were annotated, or "
                "scale the annotations"
            )
        crop = image[top : top + self.crop_size, left : left + self.crop_size]
        if self.output_size is None:
            return crop.copy()  # not a view, which would keep the whole image in memory
        size = (self.output_size, self.output_size)
        return cv2.resize(crop, size, interpolation=cv2.INTER_AREA)

    def prepare_data(self, idx: int) -> Any:
        """Cut out the crop, and run the pipeline."""
        info = self.get_data_info(idx)
        crop = self._crops.get((info["img_path"], info["crop"]))
        if crop is None:
            crop = self._read_crop(info)
        info["img"] = crop.copy()  # a transform may write to it
        info["img_shape"] = info["ori_shape"] = info["img"].shape[:2]
        return self.pipeline(info)
