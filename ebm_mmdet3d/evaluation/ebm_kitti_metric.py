"""KITTI's AP for mmdet3d, on the CPU, with values at high IoU thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from mmdet3d.evaluation import KittiMetric
from mmdet3d.registry import METRICS
from mmengine.fileio import load
from mmengine.logging import MMLogger

from ebm_mmdet.datasets.annotation_check import check_class_names
from ebm_mmdet.evaluation.class_check import ClassCheck

from .frame_names import annotated_rows, frame_name, frame_numbers
from .kitti_average_precision import RECALL_POSITIONS, kitti_precision
from .kitti_report import Shown, overall

__all__ = ["EBMKittiMetric"]

FIELDS_3D = ("bboxes_3d", "scores_3d", "labels_3d")
FIELDS_2D = ("bboxes", "scores", "labels")


@METRICS.register_module()
class EBMKittiMetric(ClassCheck, KittiMetric):
    """mmdet3d's `KittiMetric` without a GPU, at any IoU threshold, for any part of the data.

    It takes the arguments of `mmdet3d.evaluation.KittiMetric` and two more. For every class, AP in
    BEV and 3D at ``iou_thresholds`` is printed as one table (for cars and the default thresholds,
    Table III of arXiv:2012.04634 is its AP41 part) and returned, in percent, in full precision:

    - ``pred_instances_3d/KITTI/Car_3D_AP41_moderate_IoU0.85``, and so on for ``BEV``, ``easy``,
      ``hard``, every threshold and every requested one of ``AP11``, ``AP40``, ``AP41``;
    - mmdet3d's own keys, ``pred_instances_3d/KITTI/Car_3D_AP40_moderate_strict`` and so on, also
      for the image boxes (``2D``), and ``Overall_...`` for several classes. mmdet3d rounds to four
      decimals and computes only AP11 and AP40; its orientation score is left out here.

    A class without an object of some difficulty has NaN for it (mmdet3d: 0) and is left out of
    ``Overall``. A prediction is identified by the file that it was made from (``lidar_path`` or
    ``img_path``), so a subset of the annotated frames in any order can be evaluated, and submission
    files carry the number of the frame.

    Like mmdet3d's, this metric leaves out boxes that are projected outside the image and, if they
    are LiDAR boxes, those with a bottom centre outside ``pcd_limit_range``.

    Args:
        iou_thresholds: thresholds for all classes, each in [0, 1).
        recall_positions: numbers of recall positions, out of 11, 40, 41; see
            :class:`KittiPrecision`.

    Raises:
        ValueError: a threshold is not in [0, 1), a number of positions does not exist, or the
            annotations lack a class of the data set; raised before anything is evaluated.
        FileExistsError: ``submission_prefix`` or ``pklfile_prefix`` has results of an earlier run.
            A submission would mix the frames of both.
    """

    def __init__(
        self,
        *args,
        iou_thresholds: Sequence[float] = (0.7, 0.75, 0.8, 0.85, 0.9),
        recall_positions: Sequence[int] = (11, 40, 41),
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        for threshold in iou_thresholds:
            if not 0 <= threshold < 1:
                raise ValueError(f"iou_thresholds: {threshold!r}; expected 0 <= threshold < 1.")
        for positions in recall_positions:
            if positions not in RECALL_POSITIONS:
                raise ValueError(f"recall_positions: {positions!r}; expected 11, 40 or 41.")
        _refuse_results("submission_prefix", self.submission_prefix, "*/*.txt")
        _refuse_results("pklfile_prefix", self.pklfile_prefix, "*.pkl")
        self.iou_thresholds = tuple(iou_thresholds)
        self.recall_positions = tuple(recall_positions)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise ``ValueError`` unless the annotation file has these classes.

        A class that the file lacks has no objects, so its AP would be NaN, without an error.
        """
        if self.format_only:
            return
        known = load(self.ann_file, backend_args=self.backend_args)["metainfo"]["categories"]
        categories = [{"name": name} for name in known]
        check_class_names({"categories": categories}, classes, self.ann_file)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store the predictions of a batch, on the CPU, with the names of their frames.

        Args:
            data_batch: unused.
            data_samples: each with ``sample_idx``, ``pred_instances_3d`` and, optionally,
                ``pred_instances``, ``lidar_path`` and ``img_path``.

        Raises:
            ValueError: the data set has no class for a label.
        """
        classes = self.dataset_meta["classes"]
        for sample in data_samples:
            result = {"sample_idx": sample["sample_idx"], "frame": frame_name(sample)}
            for name, fields in (("pred_instances_3d", FIELDS_3D), ("pred_instances", FIELDS_2D)):
                predicted = sample.get(name) or {}
                result[name] = {key: predicted[key].to("cpu") for key in fields if key in predicted}
                labels = result[name].get(fields[2])
                if labels is not None and len(labels) and int(labels.max()) >= len(classes):
                    raise ValueError(
                        f"{name} has label {int(labels.max())}, but the data set has the classes "
                        f"{list(classes)}; set num_classes of the detector's head to "
                        f"{len(classes)}, or name all its classes in the data set's metainfo"
                    )
            self.results.append(result)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Evaluate all frames that were predicted.

        Args:
            results: one per frame, as `process` stores them.

        Returns:
            Metric name to value; nothing for ``format_only``.

        Raises:
            ValueError: a prediction cannot be assigned to one annotated frame.
        """
        logger = MMLogger.get_current_instance()
        self.classes = self.dataset_meta["classes"]
        annotated = load(self.ann_file, backend_args=self.backend_args)
        infos = [annotated["data_list"][k] for k in annotated_rows(results, annotated["data_list"])]
        if len(infos) < len(annotated["data_list"]):
            logger.info(
                f"{len(infos)} of the {len(annotated['data_list'])} frames of {self.ann_file} were "
                "predicted; the others are left out."
            )
        # The parent looks frames up by position; this lets it find them by their number.
        numbers = frame_numbers(infos)
        self.data_infos = dict(zip(numbers, infos))
        results = [{**result, "sample_idx": n} for result, n in zip(results, numbers)]
        formatted, temporary = self.format_results(
            results, self.pklfile_prefix, self.submission_prefix, self.classes
        )
        values: dict[str, float] = {}
        if self.format_only:
            logger.info(f"results are saved in {self.submission_prefix}")
        else:
            truth = self.convert_annos_to_kitti_annos(
                dict(metainfo=annotated["metainfo"], data_list=infos)
            )
            truth = [info["kitti_annos"] for info in truth]
            for metric in self.metrics:
                values.update(self.kitti_evaluate(formatted, truth, metric, self.classes, logger))
        if temporary is not None:
            temporary.cleanup()
        return values

    def bbox2result_kitti(
        self,
        net_outputs: Sequence[Mapping],
        sample_idx_list: Sequence[int],
        class_names: Sequence[str],
        pklfile_prefix: str | None = None,
        submission_prefix: str | None = None,
    ) -> list[dict]:
        """Detections of every frame in the format of :func:`kitti_precision`.

        The arguments are the parent's, which works box by box and writes files if configured to.
        """
        if self.pklfile_prefix is not None or submission_prefix is not None:
            return super().bbox2result_kitti(
                net_outputs, sample_idx_list, class_names, pklfile_prefix, submission_prefix
            )
        annotations = []
        for output, number in zip(net_outputs, sample_idx_list):
            info = self.data_infos[number]
            found = self.convert_valid_bboxes(output, info)
            solid, image = found["box3d_camera"], info["images"][self.default_cam_key]
            labels = found["label_preds"].astype(int).reshape(-1)
            low = np.maximum(found["bbox"][:, :2], 0)
            high = np.minimum(found["bbox"][:, 2:], [image["width"], image["height"]])
            annotations.append(
                dict(
                    name=np.array(class_names)[labels],
                    bbox=np.hstack((low, high)),
                    location=solid[:, :3],
                    dimensions=solid[:, 3:6],
                    rotation_y=solid[:, 6],
                    score=found["scores"],
                )
            )
        return annotations

    def convert_annos_to_kitti_annos(self, data_infos: dict) -> list[dict]:
        """Add ``kitti_annos`` to every frame, in the format of :func:`kitti_precision`.

        Args:
            data_infos: content of an annotation file, with ``metainfo`` and ``data_list``.

        Returns:
            ``data_infos['data_list']``.

        Raises:
            ValueError: the file has no annotations, or no name for a label.
        """
        if self.format_only:
            return data_infos["data_list"]
        names = {label: name for name, label in data_infos["metainfo"]["categories"].items()}
        names.setdefault(-1, "DontCare")
        for info in data_infos["data_list"]:
            if "instances" not in info:
                raise ValueError(
                    f"{self.ann_file} has no annotations (no 'instances' in frame "
                    f"{info.get('sample_idx')}); only format_only=True works for a test set."
                )
            objects = info["instances"]
            unnamed = {item["bbox_label"] for item in objects} - names.keys()
            if unnamed:
                raise ValueError(
                    f"{self.ann_file} has objects with labels {sorted(unnamed)}, but its "
                    f"metainfo['categories'] names {sorted(names)} only."
                )
            solid = np.array([item["bbox_3d"] for item in objects], float).reshape(-1, 7)
            info["kitti_annos"] = dict(
                name=np.array([names[item["bbox_label"]] for item in objects], dtype=str),
                bbox=np.array([item["bbox"] for item in objects], float).reshape(-1, 4),
                location=solid[:, :3],
                dimensions=solid[:, 3:6],
                rotation_y=solid[:, 6],
                truncated=np.array([item["truncated"] for item in objects], float),
                occluded=np.array([item["occluded"] for item in objects], float),
            )
        return data_infos["data_list"]

    def kitti_evaluate(
        self,
        results_dict: Mapping[str, list[dict]],
        gt_annos: list[dict],
        metric: str | None = None,
        classes: Sequence[str] | None = None,
        logger: MMLogger | None = None,
    ) -> dict[str, float]:
        """Evaluate formatted results, print a table per class, and return the values.

        Args:
            results_dict: ``pred_instances_3d`` or ``pred_instances`` to one detection mapping per
                frame (:func:`kitti_precision`).
            gt_annos: ground truth of the same frames.
            metric: ``img_bbox`` for image boxes only; any other value for BEV and 3D too.
            classes: class names; None for those of the data set.
            logger: logger for the tables; None for mmengine's current one.
        """
        logger = logger or MMLogger.get_current_instance()
        classes = list(classes or self.classes)
        shown = Shown(self.iou_thresholds, self.recall_positions)
        thresholds = shown.all_thresholds(classes)
        values: dict[str, float] = {}
        for source, found in results_dict.items():
            flat = source == "pred_instances" or metric == "img_bbox"
            metrics = ("bbox",) if flat else ("3d", "bev", "bbox")
            results = kitti_precision(gt_annos, found, classes, thresholds, metrics)
            prefix = f"{source}/KITTI"
            for name, result in results.items():
                named = shown.values(name, result)
                values |= {f"{prefix}/{name}_{key}": value for key, value in named.items()}
                logger.info(f"Results of {source}, {name}:\n{shown.table(name, result)}")
            if len(classes) > 1:
                values |= overall(values, prefix, classes)
        return values


def _refuse_results(name: str, prefix: str | None, pattern: str) -> None:
    """Raise ``FileExistsError`` if the folder of results has some."""
    found = next(iter(Path(prefix).glob(pattern)), None) if prefix else None
    if found is not None:
        raise FileExistsError(
            f"{name}={prefix!r} has results of an earlier run, such as {found.name}, which are not "
            "overwritten; move them away, or give another folder"
        )
