"""The data sets of the papers, from the files in which they were published.

=============  =====================================  =================  =============  =========
preset         target                                 images, labels     layout         split
=============  =====================================  =================  =============  =========
``steering``   angle of a steering wheel, degrees     images, labels     NCHW, RGB      80 / 20
``cell200``    number of simulated cells, 1 to 200    IMGs_grey,         NCHW, grey     10,000 /
                                                      CellCounts                        10,000
``utkface``    age, 1 to 60 years                     images, labels     NCHW, RGB      80 / 20
``biwi``       yaw, pitch, roll of a head, degrees    image, pose        NHWC, **BGR**  two files
=============  =====================================  =================  =============  =========

The papers divide the first three at random, without a seed (Gustafsson et al., AISTATS 2022). For
``steering``, whose images are frames of videos, ``split=dict(kind='blocks', ...)`` is the honest
division. Nothing is downloaded: faces and licences are the user's responsibility.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmdet.registry import DATASETS
from mmengine.logging import print_log

from .array_file import ArrayFile, ArrayFileError
from .image_file import to_8_bit
from .regression_dataset import TargetDataset
from .target_space import check_targets, complete_target

__all__ = ["PRESETS", "RegressionArrayDataset"]

_CCGAN = "Published by UBCDingXin/improved_CcGAN (README, section on data sets), mirrors in CCDM:"

PRESETS: dict[str, dict[str, Any]] = {
    "steering": {
        "images_key": "images",
        "labels_key": "labels",
        "layout": "NCHW",
        "channel_order": "rgb",
        "target": {
            "names": ("steering",),
            "units": ("degrees",),
            "ranges": ((-100.0, 100.0),),
            "flip_signs": (-1,),
        },
        "hint": f"{_CCGAN} https://1drv.ms/u/s!Arj2pETbYnWQstIyDTDpGA0CNiONkA?e=Ui5kUK",
    },
    "cell200": {
        "images_key": "IMGs_grey",
        "labels_key": "CellCounts",
        "layout": "NCHW",
        "channel_order": "rgb",
        "target": {
            "names": ("count",),
            "units": ("cells",),
            "ranges": ((1.0, 200.0),),
            "flip_signs": (1,),
            "integer": True,
        },
        "hint": f"{_CCGAN} https://1drv.ms/u/s!Arj2pETbYnWQstIt73ZfGOAjBMiTmQ?e=cvxFIN",
    },
    "utkface": {
        "images_key": "images",
        "labels_key": "labels",
        "layout": "NCHW",
        "channel_order": "rgb",
        "only_in_range": True,
        "target": {
            "names": ("age",),
            "units": ("years",),
            "ranges": ((1.0, 60.0),),
            "flip_signs": (1,),
            "integer": True,
        },
        "hint": f"{_CCGAN} https://1drv.ms/u/s!Arj2pETbYnWQstIzurW-LCFpGz5D7Q?e=X23ybx",
    },
    "biwi": {
        "images_key": "image",
        "labels_key": "pose",
        "layout": "NHWC",
        "channel_order": "bgr",  # written by OpenCV
        "target": {
            "names": ("yaw", "pitch", "roll"),
            "units": ("degrees",) * 3,
            "ranges": ((-80.0, 80.0),) * 3,
            "flip_signs": (-1, 1, -1),
        },
        "hint": (
            "BIWI_train.npz and BIWI_test.npz are in the data.zip of shamangary/FSA-Net, "
            "https://drive.google.com/file/d/1j6GMx33DCcbUOS8J3NHZ-BMHgk7H-oC_"
        ),
    },
}
"""What is known about each published file."""

_UNSET = object()


@DATASETS.register_module()
class RegressionArrayDataset(TargetDataset):
    """Images and labels in one ``.h5`` or ``.npz`` file: the papers' files, or one of your own.

    A sample brings its image along, ``img`` (H, W, 3) uint8 BGR; grey images become three equal
    channels.

    Args:
        data_file: the file, relative to `data_root` if that is given.
        preset: ``steering``, ``cell200``, ``utkface`` or ``biwi``, whose values the other
            arguments override; None for a file of your own.
        images_key: name of the images in the file.
        labels_key: name of the labels ``(N,)`` or ``(N, D)``.
        layout: ``NCHW`` or ``NHWC``; images ``(N, H, W)`` are grey in both.
        channel_order: ``rgb`` or ``bgr``, the order of the file. Wrong colours are not detected.
        metainfo: ``dict(target=...)``, see
            :func:`~ebm_mmdet.regression.complete_target`.
        only_in_range: leave out the images whose label is outside of its range, with a message,
            where this is otherwise an error.
        groups_key: name of the groups' names ``(N,)`` in the file, for a split by group.
        value_range: values that become 0 and 255, for images that are not of 8 bits.
        split: such as ``dict(part='train', parts=dict(train=0.8, test=0.2))``; see
            :func:`~ebm_mmdet.regression.split_indices`.
        data_root: folder of `data_file`.
        **kwargs: arguments of mmengine's ``BaseDataset``.

    Raises:
        ArrayFileError: the file is missing, broken, or not as described. The message says where
            published files can be had.
        ImportError: a ``.h5`` file, and h5py is not installed.
        TargetError: labels are not as declared.
    """

    def __init__(
        self,
        data_file: str,
        preset: str | None = None,
        images_key: Any = _UNSET,
        labels_key: Any = _UNSET,
        layout: Any = _UNSET,
        channel_order: Any = _UNSET,
        metainfo: Mapping[str, Any] | None = None,
        only_in_range: Any = _UNSET,
        groups_key: str | None = None,
        value_range: tuple[float, float] | None = None,
        split: Mapping[str, Any] | None = None,
        data_root: str = "",
        **kwargs: Any,
    ) -> None:
        if preset is not None and preset not in PRESETS:
            raise ValueError(
                f"preset={preset!r}; expected one of {', '.join(map(repr, PRESETS))}, or None"
            )
        settings = {
            "images_key": "images",
            "labels_key": "labels",
            "layout": "NHWC",
            "channel_order": "rgb",
            "only_in_range": False,
            **(PRESETS[preset] if preset else {}),
        }
        given = {
            "images_key": images_key,
            "labels_key": labels_key,
            "layout": layout,
            "channel_order": channel_order,
            "only_in_range": only_in_range,
        }
        settings.update({key: value for key, value in given.items() if value is not _UNSET})
        if settings["layout"] not in ("NCHW", "NHWC"):
            raise ValueError(f"layout={settings['layout']!r}; expected 'NCHW' or 'NHWC'")
        if settings["channel_order"] not in ("rgb", "bgr"):
            raise ValueError(f"channel_order={settings['channel_order']!r}; expected 'rgb', 'bgr'")
        self.layout = settings["layout"]
        self.channel_order = settings["channel_order"]
        self.only_in_range = settings["only_in_range"]
        self.value_range = value_range
        self.groups_key = groups_key
        self.hint = settings.get("hint", "")
        self.images_key, self.labels_key = settings["images_key"], settings["labels_key"]
        self._file: ArrayFile | None = None
        metainfo = dict(metainfo or {})
        target = {**settings.get("target", {}), **metainfo.get("target", {})}
        metainfo["target"] = complete_target(target, data_file)
        super().__init__(
            ann_file=data_file,
            metainfo=metainfo,
            data_root=data_root,
            data_prefix={},
            split=split,
            **kwargs,
        )

    @property
    def file(self) -> ArrayFile:
        """The open file."""
        if self._file is None:
            self._file = ArrayFile(self.ann_file, self.images_key, self.labels_key, self.hint)
        return self._file

    def load_targets(self) -> list[dict]:
        """Read and check the labels; images are not read."""
        target = self._metainfo["target"]
        labels = self.file.labels()
        dim = len(target["names"])
        if labels.shape[1] != dim:
            raise ArrayFileError(
                f"{self.ann_file}: {self.labels_key!r} has {labels.shape[1]} numbers for each "
                f"image, but the target has {dim}: {', '.join(target['names'])}"
            )
        kept = np.arange(len(labels))
        if self.only_in_range:
            low, high = np.array(target["ranges"]).T
            linear = np.array([period is None for period in target["periods"]])
            # NaN stays, and is an error below; angles of any value are inside.
            kept = np.flatnonzero(~(((labels < low) | (labels > high)) & linear).any(1))
            if len(kept) < len(labels):
                print_log(
                    f"{self.ann_file}: {len(labels) - len(kept)} of {len(labels)} images are left "
                    f"out, because their label is outside of {target['ranges']}",
                    logger="current",
                )
        check_targets(
            labels[kept], target, lambda i: f"{self.ann_file}, {self.labels_key}[{kept[i]}]"
        )
        groups = self._groups(len(labels))
        samples = []
        for number in kept:
            sample: dict[str, Any] = {
                "img_path": f"{self.ann_file}#{number}",
                "number": int(number),
                "gt_target": labels[number].astype(np.float32),
            }
            if groups is not None:
                sample["group"] = groups[number]
            samples.append(sample)
        return samples

    def _groups(self, count: int) -> list[str] | None:
        if self.groups_key is None:
            return None
        reader = ArrayFile(self.ann_file, self.groups_key, self.groups_key, self.hint)
        values = [reader.image(i) for i in range(count)]
        return [v.decode() if isinstance(v, bytes) else str(v) for v in values]

    def prepare_data(self, idx: int) -> Any:
        """Read the image, and run the pipeline."""
        info = self.get_data_info(idx)
        info["img"] = self._to_bgr(self.file.image(info.pop("number")), info["img_path"])
        info["img_shape"] = info["ori_shape"] = info["img"].shape[:2]
        return self.pipeline(info)

    def _to_bgr(self, image: np.ndarray, source: str) -> np.ndarray:
        image = np.asarray(image)
        if image.ndim == 2:
            image = image[..., None]
        elif image.ndim == 3 and self.layout == "NCHW":
            image = image.transpose(1, 2, 0)
        if image.ndim != 3 or image.shape[2] not in (1, 3):
            raise ArrayFileError(
                f"{source} has the shape {image.shape} (H, W, C) in the layout {self.layout}; "
                "expected one or three channels. Set layout"
            )
        image = to_8_bit(image, self.value_range, source)
        if image.shape[2] == 1:
            image = np.repeat(image, 3, axis=2)
        elif self.channel_order == "rgb":
            image = image[..., ::-1]
        return np.array(image, order="C")  # a copy: a transform may write to it
