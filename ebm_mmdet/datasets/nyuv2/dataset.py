"""NYUv2 as its converter writes it: boxes, depth, normals and the type of scene."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.fileio import get_text, join_path

from .classes import CLASSES

__all__ = ["NYUv2Dataset"]

_PREFIXES = {
    "img": "images/",
    "depth": "depth/",
    "normals": "normals/",
    "normals_mask": "normals_mask/",
}
_PATHS = {"depth": "depth_path", "normals": "normals_path", "normals_mask": "normals_mask_path"}


@DATASETS.register_module()
class NYUv2Dataset(CocoDataset):
    """Detection data whose images may also have depth, normals and a type of scene.

    The annotation file is in COCO format. Entries of ``images`` may also have ``depth_file``,
    ``normals_file`` and ``normals_mask_file``, which become the keys ``depth_path``,
    ``normals_path`` and ``normals_mask_path`` of `LoadAuxiliaryMaps`, and ``scene_type``, a name
    that becomes ``gt_scene``, its index in ``metainfo["scene_types"]``. What an image lacks is
    absent from its results. The names of the types of scene are the list ``scene_types`` of the
    annotation file, unless ``metainfo`` sets them, as in a mixture of data sets.

    Args:
        *args: As of ``CocoDataset``.
        data_prefix: Folders of ``img``, ``depth``, ``normals`` and ``normals_mask``; those that
            are not given are the folders that the converter makes.
        **kwargs: As of ``CocoDataset``.

    Raises:
        ValueError: The type of scene of an image is not among the names.
    """

    METAINFO: ClassVar[dict] = {"classes": CLASSES}

    def __init__(self, *args, data_prefix: dict | None = None, **kwargs) -> None:
        super().__init__(*args, data_prefix={**_PREFIXES, **(data_prefix or {})}, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Parsed annotations of all images, as in ``CocoDataset``."""
        data_list = super().load_data_list()
        names = self._metainfo.get("scene_types")
        if names is None:
            names = self._scene_types()
        self._metainfo["scene_types"] = tuple(names)
        indices = {name: index for index, name in enumerate(names)}
        for info in data_list:
            name = info.get("scene_type")
            if name is None:
                continue
            if name not in indices:
                raise ValueError(
                    f"{self.ann_file}: {info['img_path']} is of the scene type {name!r}; expected "
                    f"one of {list(names)}. Add it to 'scene_types' of the annotation file or of "
                    "metainfo"
                )
            info["gt_scene"] = indices[name]
        return data_list

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """One image's annotation as in ``CocoDataset``, with the paths of its maps."""
        info = super().parse_data_info(raw_data_info)
        raw = raw_data_info["raw_img_info"]
        for name, key in _PATHS.items():
            if raw.get(f"{name}_file"):
                info[key] = join_path(self.data_prefix[name], raw[f"{name}_file"])
        for key in ("scene", "scene_type"):
            if raw.get(key):
                info[key] = raw[key]
        return info

    def _scene_types(self) -> Sequence[str]:
        # The reader of COCO files, which checks the content, is gone when the list is complete.
        content = json.loads(get_text(self.ann_file, backend_args=self.backend_args))
        return content.get("scene_types", ())
