"""Any mmdet3d detector with an energy head on its bird's-eye-view features."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from mmdet3d.models.detectors import Base3DDetector
from mmdet3d.registry import MODELS, TASK_UTILS
from mmdet3d.structures import Det3DDataSample
from mmdet3d.structures.det3d_data_sample import SampleList
from mmengine.config import ConfigDict
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ebm_mmdet.energy import Refiner
from ebm_mmdet.models.detectors.detector_wrapper import (
    DetectorWrapper,
    check_regression,
    detector_covariance,
)

from ..connected_zero import connected_zero
from .dim_intervals import DimIntervals
from .frames import one_point_frame, with_points
from .refined_boxes import write_refined_boxes

__all__ = ["EBM3DDetector"]


@MODELS.register_module()
class EBM3DDetector(DetectorWrapper, Base3DDetector):
    """Wraps a detector: an energy head evaluates f at 3D boxes; a refiner moves boxes to larger f.

    The detector is used unchanged: its bird's-eye-view map is captured while it runs, so features
    are computed once per frame, and boxes are refined in the coordinates of the network's input.
    All seven coordinates are refined; further ones, such as velocities, are kept. Predictions keep
    scores, labels, order and every other field, and each box gains

    - ``log_density`` (n,) float32: ``f`` at the final box,
    - ``accepted_steps`` (n,) int64: steps that moved the box.

    A refiner that samples (``ImportanceMeanRefiner``) adds ``box_cov`` (n, 7, 7), ``box_std``
    (n, 7), ``ess`` (n,) and ``log_prob`` (n,), in metres and radians. A checkpoint of
    :func:`~ebm_mmdet3d.apis.calibrate_3d` adds ``dim_interval`` (n, 7, 2).
    A refiner with ``num_modes=K`` adds ``modes`` (n, K, 7), the first of which is the box, and
    ``mode_mass`` (n, K), NaN after the last mode.

    A box that moved has sizes of at least ``energy_head.min_box_size`` and its yaw wrapped to
    [-π, π); a box that did not move keeps every bit. A frame without points has no detections and
    is not trained on; a batch may consist of such frames alone.

    Args:
        detector: config of any mmdet3d detector that computes a BEV map: ``SASSD``, ``VoxelNet``
            (SECOND, PointPillars), ``CenterPoint``, ...
        energy_head: config of the energy head (``EBM3DRefineHead``).
        refiner: config of the refiner (``GradientAscentRefiner``). None keeps the detector's boxes,
            as for "before refinement" in every comparison.
        freeze_detector: if True, the detector gets no gradients, stays in eval mode and is
            byte-identical after training. If False, its losses and the energy head are trained
            jointly.
        feature_source: dotted name of the module in the detector whose output is the BEV map, or
            contains it (at index ``energy_head.feature_level``): ``'neck'``, ``'pts_neck'`` for
            CenterPoint, ``'middle_encoder'`` or ``'backbone'`` for a cheaper head.
        bn_train_mode: during training, let the batch normalisations of a frozen detector normalise
            by the batch and update their running statistics, as the paper's code does. The
            detector then changes: compare with ``refiner=None`` on the same checkpoint.
        data_preprocessor: by default the detector's own.
        train_cfg: refused unless empty, because only the wrapped detector has one.
        test_cfg: likewise.
        init_cfg: mmengine's.
        min_score: detections below this score are evaluated, but not moved. Not for a refiner that
            samples.

    Raises:
        ValueError: the detector has no module of the name ``feature_source``, ``bn_train_mode`` is
            set for a detector that is not frozen, ``train_cfg`` or ``test_cfg`` is given, or
            ``min_score`` is negative or not finite.

    Source: Gustafsson et al., "Accurate 3D Object Detection using Energy-Based Models", CVPR
    Workshops 2021 (2012.04634), algorithm 1.
    """

    dim_intervals: DimIntervals | None = None
    """Set by :func:`~ebm_mmdet.models.attach_intervals`."""

    def __init__(
        self,
        detector: dict,
        energy_head: dict,
        refiner: dict | None = None,
        freeze_detector: bool = True,
        feature_source: str | Sequence[str] = "neck",
        bn_train_mode: bool = False,
        data_preprocessor: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
        min_score: float = 0.0,
    ) -> None:
        if bn_train_mode and not freeze_detector:
            raise ValueError(
                "bn_train_mode=True is for a frozen detector; with freeze_detector=False its "
                "batch normalisations are in training mode anyway"
            )
        inner = MODELS.build(ConfigDict(detector))
        super().__init__(data_preprocessor or inner.data_preprocessor, init_cfg)
        self.bn_train_mode = bn_train_mode
        self.wrap(inner, feature_source, freeze_detector, train_cfg, test_cfg, min_score)
        self.energy_head = MODELS.build(energy_head)
        self.refiner = TASK_UTILS.build(refiner) if refiner else None
        check_regression(self.energy_head, self.refiner)

    def train(self, mode: bool = True) -> EBM3DDetector:
        """Set the training mode; a frozen detector stays in eval mode, see ``bn_train_mode``."""
        super().train(mode)
        if self.bn_train_mode:
            for module in self.detector.modules():
                if isinstance(module, _BatchNorm):
                    module.train(mode)
        return self

    def extract_maps(
        self, batch_inputs_dict: dict, batch_data_samples: SampleList
    ) -> tuple[Tensor, ...]:
        """BEV maps (B, C, H, W) of frames that all have points; no gradient if frozen."""
        inputs = [batch_inputs_dict]
        if "batch_input_metas" in inspect.signature(self.detector.extract_feat).parameters:
            inputs.append([sample.metainfo for sample in batch_data_samples])
        maps = super().extract_maps(*inputs)
        return tuple(self._with_heights(maps, batch_inputs_dict))

    def _with_heights(self, maps: Sequence[Tensor], batch_inputs_dict: dict) -> Sequence[Tensor]:
        """The maps, with the heights of the points if the head reads them."""
        if not self.energy_head.point_heights:
            return maps
        return self.energy_head.with_heights(maps, batch_inputs_dict["points"])

    def extract_feat(self, batch_inputs_dict: dict, *args):
        """Features of the detector, as it returns them."""
        return self.detector.extract_feat(batch_inputs_dict, *args)

    def loss(
        self, batch_inputs_dict: dict, batch_data_samples: SampleList, **kwargs
    ) -> dict[str, Tensor]:
        """Losses of the energy head, and of the detector unless it is frozen.

        A batch without any ground truth gives a zero connected to the head's parameters, and a
        batch without any point a zero connected to all trained parameters, so that distributed
        training continues.
        """
        inputs, samples, _ = with_points(batch_inputs_dict, batch_data_samples)
        # First, because mmdet3d's heads replace the boxes in the samples by plain tensors.
        annotated = [self._annotation(sample) for sample in samples]
        losses: dict[str, Tensor] = {}
        if not samples:
            maps = self._no_maps()
        elif self.freeze_detector:
            maps = self.extract_maps(inputs, samples)
        else:
            with self.capture_features() as features:
                losses.update(self.detector.loss(inputs, samples, **kwargs))
            maps = self._with_heights(features(), inputs)
        feats = self.prepare(maps, samples, detach=self.freeze_detector)
        losses.update(self.energy_losses(feats, annotated))
        if not samples and not self.freeze_detector:
            # The detector did not run in this process, but may have run in another one.
            losses["loss_energy"] = losses["loss_energy"] + connected_zero(
                parameter for parameter in self.detector.parameters() if parameter.requires_grad
            )
        return losses

    def _no_maps(self) -> list[Tensor]:
        """Empty maps (no frames), for every level that the head may choose."""
        shape = (0, self.energy_head.map_channels, 1, 1)
        return [torch.zeros(shape, device=self._device)] * (self.energy_head.feature_level + 1)

    def prepare(
        self, maps: Sequence[Tensor], samples: SampleList, detach: bool = True
    ) -> Sequence[Tensor]:
        """Turn the maps of ``extract_maps`` into the features that ``refine`` takes."""
        voxels = getattr(self.data_preprocessor, "voxel_layer", None)
        # The empty maps of no frames have no position to check.
        place = getattr(voxels, "point_cloud_range", None) if samples else None
        return self.energy_head.prepare(maps, detach=detach, point_cloud_range=place)

    def _annotation(self, sample: Det3DDataSample) -> tuple[Tensor, Tensor]:
        """Boxes (n, 7) float32 and labels (n,) of a frame; -1 marks objects of other classes."""
        truth = sample.gt_instances_3d
        boxes = truth.bboxes_3d.tensor[:, :7].to(self._device).float()
        return boxes, truth.labels_3d.to(self._device)

    def predict(
        self,
        batch_inputs_dict: dict,
        batch_data_samples: SampleList,
        refiner: Refiner | None = None,
        **kwargs,
    ) -> SampleList:
        """Detect, then refine. The class describes the fields of ``pred_instances_3d``.

        Args:
            batch_inputs_dict: output of the data preprocessor.
            batch_data_samples: the data samples of the frames.
            refiner: the refiner of this call, see :meth:`refine`.
            **kwargs: further arguments of the detector's ``predict``.
        """
        inputs, samples, occupied = with_points(batch_inputs_dict, batch_data_samples)
        if samples:
            with self.capture_features() as features:
                samples = self.detector.predict(inputs, samples, **kwargs)
            maps = self._with_heights(features(), inputs)
            self.refine(self.prepare(maps, samples), samples, refiner)
        if len(occupied) == len(batch_data_samples):
            return samples
        results = list(batch_data_samples)
        usual = samples or [
            self._predict_one_point(batch_inputs_dict, results[0], refiner=refiner, **kwargs)
        ]
        nothing = usual[0].pred_instances_3d[:0]
        for i, sample in enumerate(results):
            if i in occupied:
                results[i] = samples[occupied.index(i)]
            else:
                self.add_pred_to_datasample([sample], [nothing.clone()])
        return results

    def _predict_one_point(
        self, batch_inputs_dict: dict, sample: Det3DDataSample, **kwargs
    ) -> Det3DDataSample:
        """A prediction for one point, in a copy of ``sample``.

        If no frame has a point, this shows the form of a result, because the detector determines
        its fields, their types and the columns of its boxes.
        """
        sample = sample.clone()
        inputs = one_point_frame(batch_inputs_dict, self.data_preprocessor, sample)
        return self.predict(inputs, [sample], **kwargs)[0]

    def refine(
        self, feats: Sequence[Tensor], samples: SampleList, refiner: Refiner | None = None
    ) -> SampleList:
        """Refine the ``pred_instances_3d`` of a batch in place.

        Args:
            feats: what ``energy_head.prepare`` returned for these frames.
            samples: data samples with predictions, in the coordinates of the map.
            refiner: the refiner of this call, instead of the model's own.
                :func:`~ebm_mmdet.energy.evaluate_only` leaves the boxes where they are.

        Raises:
            ValueError: ``min_score`` is set, and the refiner samples.
        """
        if not samples:
            return samples
        found = [sample.pred_instances_3d for sample in samples]
        references, results = self.find_modes(
            feats,
            [each.bboxes_3d.tensor[:, :7] for each in found],
            [each.labels_3d for each in found],
            refiner or self.refiner,
            [detector_covariance(each) for each in found],
            scores=[each.scores_3d for each in found] if self.min_score > 0 else None,
        )
        for sample, reference, result in zip(samples, references, results):
            write_refined_boxes(sample, reference, result, self.energy_head.min_box_size)
        if refiner is None and self.dim_intervals is not None:  # they belong to the own boxes
            for sample in samples:
                self.dim_intervals.add_to(sample)
        return samples

    def _forward(self, batch_inputs_dict: dict, batch_data_samples=None, **kwargs):
        """Outputs of the networks, for ``mode='tensor'`` and for counters of operations.

        Returns:
            The detector's own output in this mode, and f (B, 50) of 50 boxes for each frame, which
            is the number that a detector on KITTI returns.
        """
        with self.capture_features() as features:
            outputs = self.detector(batch_inputs_dict, batch_data_samples, mode="tensor", **kwargs)
        maps = self._with_heights(features(), batch_inputs_dict)
        feats = self.energy_head.prepare(maps)
        device = self._device
        frames = torch.arange(len(feats[0]), device=device)
        # A car at the first cell of the map; the cost of a box does not depend on its position.
        car = torch.tensor([*self.energy_head.origin, 0.0, 3.9, 1.6, 1.56, 0.0], device=device)
        boxes = car.expand(len(frames), _TENSOR_MODE_BOXES, 7)
        labels = torch.zeros_like(frames)
        return outputs, self.energy_head.log_density(feats, boxes, frames, labels)


_TENSOR_MODE_BOXES = 50
