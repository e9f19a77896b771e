"""The steps that calibrations in 2D and in 3D share, from a checkpoint to one with intervals."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import Registry, init_default_scope
from torch import nn

from ..energy import expected_coverage, fewest_scores
from ..engine.stored_intervals import calibrated_path, model_digest, store_intervals
from ..models.detectors.side_intervals import attach_intervals
from .inspection import inner_datasets
from .trained_detector import load_detector, read_config
from .unfinished_calibration import UnfinishedCalibration

__all__ = ["CalibrationRun", "annotation_file", "check_classes", "coverage_lines"]


def annotation_file(dataset: Mapping) -> str | None:
    """Path of the annotation file of a data set's config, or None if it has none."""
    name = dataset.get("ann_file")
    return os.path.join(dataset.get("data_root") or "", name) if name else None


class CalibrationRun:
    """A calibration: what it is given is checked at once, then its steps are called in this order.

    - :meth:`dataset` and :meth:`model`, whose classes :func:`check_classes` compares;
    - :meth:`matching`, and within it, so that no other call does the same meanwhile:
      :meth:`check_enough` of the matched detections, and :meth:`write` the intervals that follow.

    Args:
        config: of a detector.
        checkpoint: its checkpoint; it does not change.
        ann_file: annotations, if they are not those of the config.
        out: checkpoint to write; by default ``NAME_intervals.pth`` beside ``checkpoint``.
        level: probability of an interval.
        score_thr: lowest score of a detection.
        iou_thr: smallest IoU with its object.
        say: gets lines about the progress and the result.
        settings: what else decides which detections are kept, see :class:`UnfinishedCalibration`.
        unit: what the data set has, for messages.

    Raises:
        FileExistsError: ``out`` exists, or an interrupted call to it had other settings.
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: ``level`` is not in (0, 1).
    """

    def __init__(
        self,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike,
        ann_file: str | os.PathLike | None,
        out: str | os.PathLike | None,
        level: float,
        score_thr: float,
        iou_thr: float,
        say: Callable[[str], None],
        settings: Mapping[str, object],
        unit: str = "images",
    ) -> None:
        self.level, self.needed = level, fewest_scores(level)
        self.ann_file, self.say, self.unit = ann_file, say, unit
        self.limits = dict(score_thr=score_thr, iou_thr=iou_thr)
        self.checkpoint = Path(checkpoint)
        self.out = calibrated_path(self.checkpoint, out)
        self.cfg = read_config(config)
        # Both before the model and the data set are built, which write into their config.
        test = self.cfg.get("test_dataloader")
        files = [annotation_file(each) for each in inner_datasets(test["dataset"])] if test else []
        self.unfinished = UnfinishedCalibration(
            self.out,
            self.cfg,
            self.checkpoint,
            [name for name in files if name] if ann_file is None else [ann_file],
            **settings,
            **self.limits,
        )
        self.digest = model_digest(self.cfg)

    def dataset(self, datasets: Registry, images: str | os.PathLike | None = None) -> Sequence:
        """The test data set of the config, with the other annotations and images if given.

        Args:
            datasets: the registry of its data sets, whose scope a config has that names none.
            images: folder of the images.

        Raises:
            FileNotFoundError: there is no such annotation file or folder.
            ValueError: the config has no test data, it has no object, or it was trained on.
        """
        if not self.cfg.get("test_dataloader"):
            raise ValueError("the config has no test_dataloader, whose pipeline is used")
        init_default_scope(self.cfg.get("default_scope", datasets.scope))
        outer = self.cfg.test_dataloader.dataset
        inner, *others = inner_datasets(outer)
        if others and (self.ann_file is not None or images is not None):
            raise ValueError(
                f"test_dataloader has {1 + len(others)} data sets, and --ann and --images would "
                "replace one of them alone; give a config whose test_dataloader has one"
            )
        if self.ann_file is not None:
            if not Path(self.ann_file).is_file():
                raise FileNotFoundError(f"there is no annotation file {self.ann_file}")
            inner.ann_file = os.path.abspath(self.ann_file)
        for each in (inner, *others):
            self._refuse_training_data(annotation_file(each))
        if images is not None:
            if not Path(images).is_dir():
                raise FileNotFoundError(f"there is no folder {images}")
            inner.data_prefix = dict(inner.get("data_prefix") or {}, img=os.path.abspath(images))
        built = datasets.build(outer)
        self._refuse_without_objects(built, inner)
        return built

    def _refuse_without_objects(self, dataset: Sequence, settings: Mapping) -> None:
        infos = (dataset.get_data_info(index) for index in range(len(dataset)))
        # A data set that tells its objects only in its items is not read twice for this.
        if any(info.get("instances", True) for info in infos):
            return
        raise ValueError(
            f"{settings.get('ann_file')} has {len(dataset)} {self.unit} and no annotated object; "
            "give annotations to calibrate on"
        )

    def _refuse_training_data(self, ann_file: str | None) -> None:
        trained = self.cfg.get("train_dataloader")
        for dataset in inner_datasets(trained["dataset"]) if trained and ann_file else []:
            name = annotation_file(dataset)
            if name and os.path.realpath(name) == os.path.realpath(ann_file):
                raise ValueError(
                    f"{ann_file} is what the config trains on: intervals from these "
                    f"{self.unit} would be too short; give {self.unit} that the detector and its "
                    "head have not seen"
                )

    def model(self, device: str, kind: type) -> nn.Module:
        """The model with its weights, and without intervals of an earlier calibration.

        Args:
            device: of the model.
            kind: of the intervals.

        Raises:
            CheckpointError: the checkpoint does not fit.
        """
        model = load_detector(self.cfg, self.checkpoint, device)
        attach_intervals(model, None, kind)
        return model

    @contextmanager
    def matching(self) -> Iterator[Path]:
        """The folder that keeps what is known of the detections, if the work is interrupted.

        Raises:
            FileExistsError: another call is at work for the same checkpoint, or has written it.
        """
        with self.unfinished.begin(self.say) as folder:
            yield folder

    def check_enough(self, matched: int, independent: int | None = None, where: str = "") -> None:
        """Raise ``ValueError`` if too few detections, or images with some, are there for the level.

        Args:
            matched: number of matched detections.
            independent: number of images that they are on, if bounds come from images.
            where: which of all detections these are, for the message; by default all.
        """
        where = f", {where}" if where else ""
        if matched < self.needed:
            raise ValueError(
                f"{matched} detections with a score of {self.limits['score_thr']} or more match an "
                f"object at an IoU of {self.limits['iou_thr']}{where}; a level of {self.level} "
                f"takes {self.needed} at least. Take more {self.unit}, or a lower level, score or "
                "IoU"
            )
        if independent is not None and independent < self.needed:
            raise ValueError(
                f"{independent} {self.unit} have a detection that matches an object{where}; where "
                f"all of one count as one, a level of {self.level} takes {self.needed} at least. "
                f"Take more {self.unit}, or a lower level, or leave --by-image out"
            )

    def write(self, intervals, dataset: Sequence, report: Callable[..., str]) -> None:
        """Write the checkpoint with its intervals, to whose facts those of this call are added.

        Args:
            intervals: such as :class:`~ebm_mmdet.models.SideIntervals`.
            dataset: of the calibration.
            report: says what the intervals promise.

        Raises:
            FileExistsError: somebody has made ``out`` meanwhile. It stays, and so does what is
                known of the detections: with ``out`` moved away, the same call ends at once.
        """
        intervals.facts.update(
            self.limits,
            images=len(dataset),
            annotations=str(self.ann_file or ""),
            model=self.digest,
        )
        store_intervals(self.checkpoint, self.out, intervals.attribute, intervals.to_meta())
        self.unfinished.remove()
        self.say(report(intervals))
        self.say(f"wrote {self.out}")


def check_classes(model: nn.Module, dataset: Sequence, merged: bool = False) -> None:
    """Check that a label means the same class to a detector and to a data set.

    Args:
        model: with ``dataset_meta``.
        dataset: with ``metainfo``.
        merged: whether one list of classes may end before the other one: a 3D detector that has
            learned several classes as one keeps the names of all.

    Raises:
        ValueError: they have other classes, or in another order.
    """
    ours = list(model.dataset_meta.get("classes") or ())
    theirs = list(dataset.metainfo.get("classes") or ())
    both = min(len(ours), len(theirs)) if merged else None
    if ours[:both] != theirs[:both]:
        raise ValueError(
            f"the detector's classes are {ours}, and those of the data set are {theirs}; set "
            "metainfo=dict(classes=...) of test_dataloader.dataset to the detector's"
        )


def coverage_lines(
    detections: int, level: float, pooled: int, unit: str, numbers: str
) -> list[str]:
    """What the bounds of all classes were made from, and what they promise.

    Args:
        detections: that match an object.
        level: probability that was asked for.
        pooled: how many independent scores the bounds come from.
        unit: what these are, such as ``'detections'``.
        numbers: what is covered, such as ``'each side'``.
    """
    mean, std = expected_coverage(pooled, level)
    return [
        f"{detections} detections match an object; bounds from {pooled} {unit}",
        f"coverage of {numbers}: {100 * mean:.1f} % in the mean over calibration sets, ± "
        f"{100 * std:.1f} from one to the next if {unit} are independent",
    ]
