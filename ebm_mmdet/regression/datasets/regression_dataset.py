"""A user's own data: a folder of images, and a table of their targets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset
from mmengine.fileio import join_path
from mmengine.logging import print_log

from .image_file import find_missing_files
from .splits import split_indices
from .table import Row, read_table
from .target_space import TargetError, check_targets, complete_target, target_statistics

__all__ = ["RegressionDataset", "TargetDataset"]


class TargetDataset(BaseDataset):
    """What the data sets of image regression with files have in common.

    A subclass returns from ``load_targets`` the samples; every one has ``img_path``,
    ``gt_target`` (D,) float32 if it is labelled, and ``group`` if there is one.

    Args:
        metainfo: its entry ``target`` describes the target, see
            :func:`~ebm_mmdet.regression.complete_target`.
        split: arguments of :func:`~ebm_mmdet.regression.split_indices` but for the number
            of images, their names and the groups, such as ``dict(part='train', kind='group')``;
            None for all.
        **kwargs: arguments of mmengine's ``BaseDataset``.
    """

    one_part_per_image = False
    """Whether a split keeps all samples of an image together."""

    def __init__(
        self,
        metainfo: Mapping[str, Any] | None = None,
        split: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.split = dict(split) if split else None
        super().__init__(metainfo=metainfo, **kwargs)

    def load_targets(self) -> list[dict]:
        """Return the samples of the whole data set."""
        raise NotImplementedError

    def load_data_list(self) -> list[dict]:
        """Load the samples, check that there are any, and take the part of the split."""
        samples = self.load_targets()
        if self.split is not None:
            groups = [sample.get("group") for sample in samples]
            images = None
            if self.one_part_per_image:
                images = [os.path.normpath(sample["img_path"]) for sample in samples]
            chosen = split_indices(len(samples), groups=groups, images=images, **self.split)
            samples = [samples[i] for i in chosen]
        return samples

    def get_data_info(self, idx: int) -> dict:
        """Everything about a sample but its pixels."""
        info = super().get_data_info(idx)
        info["flip_signs"] = self._metainfo["target"]["flip_signs"]
        return info

    def target_statistics(self) -> dict:
        """Mean, standard deviation and extremes of the targets, for a codec that standardises.

        Returns:
            ``dict(mean=[...], std=[...], min=[...], max=[...], count=n)``, D numbers each in raw
            units; unlabelled images do not count.

        Raises:
            TargetError: no image is labelled.
        """
        infos = (super(TargetDataset, self).get_data_info(i) for i in range(len(self)))
        targets = [info["gt_target"] for info in infos if "gt_target" in info]
        if not targets:
            raise TargetError("no image of the data set is labelled, so there are no statistics")
        return target_statistics(np.stack(targets))


@DATASETS.register_module()
class RegressionDataset(TargetDataset):
    """Images and a table, in CSV or JSON, of their targets: ``img_path``, targets, ``group``.

    .. code-block:: text

        img_path,age,group            [{"img_path": "anna 1.png", "target": 31, "group": "anna"},
        anna 1.png,31,anna             {"img_path": "anna 2.png", "target": 32, "group": "anna"},
        anna 2.png,32,anna             {"img_path": "bob.png", "target": 54, "group": "bob"}]
        bob.png,54,bob

    All labels, and whether every file is there, are checked before the first image is read. The
    pipeline begins with ``LoadRegressionImage``.

    Args:
        ann_file: table; see :func:`~ebm_mmdet.regression.read_table`.
        metainfo: ``dict(target=dict(names=('age',), ranges=((0, 100),), ...))``; only the ranges
            are required. See :func:`~ebm_mmdet.regression.complete_target`.
        data_root: folder of the table and of the images, if their paths are not absolute.
        data_prefix: ``dict(img_path='images')``, the folder of the images in `data_root`.
        img_column: column of the paths.
        target_columns: columns of the target's D numbers; None for those with the target's names,
            or else ``target``, or ``target_0``, ``target_1``, ...
        group_column: column of the name of a group (person, sequence, slide), if there is one.
        split: part of the data, such as ``dict(part='train', kind='group')``; see
            :func:`~ebm_mmdet.regression.split_indices`. Several rows of one image come to the same
            part, unless they are of different groups in a split by group.
        allow_unlabelled: whether targets may be empty, as in images that are only to be predicted.
            Otherwise an empty one is an error.
        check_files: check that every image is there; costs some 10 µs for each on a local disk.
        **kwargs: arguments of mmengine's ``BaseDataset``.

    Raises:
        FileNotFoundError: the table or an image does not exist.
        TargetError: a label is missing, not a number, not finite or outside of its range, a row is
            there twice, or the table has no rows. The message names the file and the row. Several
            rows of one image with different targets are allowed: several people may have labelled
            it.
    """

    one_part_per_image = True  # a test on images that were trained on would measure nothing

    def __init__(
        self,
        ann_file: str = "",
        metainfo: Mapping[str, Any] | None = None,
        data_root: str = "",
        data_prefix: Mapping[str, str] | None = None,
        img_column: str = "img_path",
        target_columns: Sequence[str] | None = None,
        group_column: str | None = "group",
        split: Mapping[str, Any] | None = None,
        allow_unlabelled: bool = False,
        check_files: bool = True,
        **kwargs: Any,
    ) -> None:
        self.img_column = img_column
        self.target_columns = target_columns
        self.group_column = group_column
        self.allow_unlabelled = allow_unlabelled
        self.check_files = check_files
        metainfo = dict(metainfo or {})
        metainfo["target"] = complete_target(metainfo.get("target"), f"the data set of {ann_file}")
        super().__init__(
            ann_file=ann_file,
            metainfo=metainfo,
            data_root=data_root,
            data_prefix=dict(data_prefix or {"img_path": ""}),
            split=split,
            **kwargs,
        )

    def load_targets(self) -> list[dict]:
        """Read and check the table."""
        target = self._metainfo["target"]
        rows = read_table(
            self.ann_file, target["names"], self.img_column, self.group_column, self.target_columns
        )
        labelled = [row for row in rows if row.target is not None]
        if len(labelled) < len(rows) and not self.allow_unlabelled:
            first = next(row for row in rows if row.target is None)
            raise TargetError(
                f"{first.place} ({first.img_path}): the target is empty, as in "
                f"{len(rows) - len(labelled)} of {len(rows)} rows. Remove them, or set "
                "allow_unlabelled=True for images that are only to be predicted"
            )
        if labelled:
            targets = np.stack([row.target for row in rows if row.target is not None])
            check_targets(
                targets, target, lambda i: f"{labelled[i].place} ({labelled[i].img_path})"
            )
        self._check_duplicates(rows)
        paths = [join_path(self.data_prefix["img_path"], row.img_path) for row in rows]
        if self.check_files:
            self._check_files(rows, paths)
        samples = []
        for row, path in zip(rows, paths):
            sample: dict[str, Any] = {"img_path": path}
            if row.target is not None:
                sample["gt_target"] = row.target.astype(np.float32)
            if row.group is not None:
                sample["group"] = row.group
            samples.append(sample)
        return samples

    @staticmethod
    def _check_duplicates(rows: Sequence[Row]) -> None:
        seen: dict[tuple, Row] = {}
        for row in rows:
            label = None if row.target is None else tuple(row.target.tolist())
            first = seen.setdefault((row.img_path, label), row)
            if first is not row:
                raise TargetError(
                    f"{row.place}: the image {row.img_path!r} is there twice with the same target, "
                    f"first in {first.place}; remove one of the rows"
                )

    def _check_files(self, rows: Sequence[Row], paths: list[str]) -> None:
        wrong = find_missing_files(paths)
        if not wrong:
            return
        number, fault = wrong[0]
        message = (
            f"{rows[number].place}: the image {paths[number]} {fault}; this concerns {len(wrong)} "
            f"of {len(rows)} rows. Paths are relative to {self.data_prefix['img_path']!r}: set "
            "data_root and data_prefix=dict(img_path=...)"
        )
        if fault == "does not exist":
            raise FileNotFoundError(message)
        raise TargetError(message)

    def full_init(self) -> None:
        """Load and check the table, and say what was found."""
        if self._fully_initialized:
            return
        super().full_init()
        print_log(f"{self.ann_file}: {len(self)} images", logger="current")
