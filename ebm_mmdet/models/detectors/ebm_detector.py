"""Any mmdet detector with an energy head on its neck features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import SampleList
from mmdet.utils import reduce_mean
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from ..box_coding import change_reference, decode_boxes
from ..side_uncertainty import decode_side_std
from .detector_wrapper import DetectorWrapper, log_density_of_reference
from .trunk_init import copy_trunk_from_box_head

__all__ = ["EBMDetector", "clip_to_image"]


@MODELS.register_module()
class EBMDetector(DetectorWrapper, BaseDetector):
    """Wraps a detector; an energy head scores boxes, a refiner moves them uphill.

    The detector is used as it is. Its neck's output is taken while it runs, so features are
    computed once per image, and boxes are refined in network-input coordinates. Predictions keep
    scores, labels and every other field of the detector, and gain per box

    - ``log_density`` (n,) float32: ``f`` at the final box (before clipping),
    - ``accepted_steps`` (n,) int64: steps that moved the box.

    A refiner that samples (``ImportanceMeanRefiner``, ``ProposalRefiner``) adds, relative to the
    final box in encoded coordinates (:mod:`ebm_mmdet.models.box_coding`),

    - ``box_cov`` (n, 4, 4) and ``box_std`` (n, 4), the square roots of its diagonal;
    - ``side_std`` (n, 4): standard deviations of x1, y1, x2, y2, in pixels of the returned boxes;
    - ``ess`` (n,): effective sample size behind them;
    - ``log_prob`` (n,): normalised log-density of the box, in coordinates of the detection;
    - ``box_samples`` (n, S, 4), if asked for: boxes drawn from the posterior, in image pixels.

    With any other refiner these fields stay the detector's, where it gives them; ``box_cov`` and
    ``box_std`` are then carried over to the refined box, which they are relative to.

    Args:
        detector: config of any mmdet detector.
        energy_head: config of the energy head (``EBMBBoxHead``).
        refiner: config of the refiner (``GradientAscentRefiner``). None: the detector's boxes,
            which is "before refinement" in every comparison.
        candidates: what is refined. None: the detector's final boxes. A config of
            ``EnergyGuidedNMS``: all boxes above a score threshold, then NMS by log-density (the
            papers' pipeline).
        freeze_detector: no gradient, eval mode, byte-identical after training. False trains
            the detector's losses and the energy head jointly.
        init_trunk_from: ``'auto'`` copies the shared layers of the detector's box head into
            the trunk, when they exist and fit, each time a plain detector checkpoint is loaded.
            ``None`` keeps the fresh initialisation.
        feature_source: the detector's child whose output are the features, or several dotted names
            whose outputs follow one another, such as ``("neck", "backbone.stage1")`` where the
            neck is too coarse for the objects. Each gives a map or a sequence of maps.
        clip_boxes: clip final boxes to the image. The papers do not; False for parity.
        data_preprocessor: by default the detector's own.
        train_cfg: unused, accepted for the signature every mmdet detector has.
        test_cfg: unused, likewise.
        init_cfg: mmengine's.

    Raises:
        ValueError: if the detector has no module named in ``feature_source``.

    Source: Gustafsson et al., ECCV 2020 (1909.12297), sec. 4.1, algorithm 1.
    """

    def __init__(
        self,
        detector: dict,
        energy_head: dict,
        refiner: dict | None = None,
        candidates: dict | None = None,
        freeze_detector: bool = True,
        init_trunk_from: str | None = "auto",
        feature_source: str | Sequence[str] = "neck",
        clip_boxes: bool = True,
        data_preprocessor: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if init_trunk_from not in ("auto", None):
            raise ValueError(f"init_trunk_from={init_trunk_from!r}; use 'auto' or None")
        detector = ConfigDict(detector)
        super().__init__(data_preprocessor or detector.get("data_preprocessor"), init_cfg)
        self.wrap(MODELS.build(detector), feature_source, freeze_detector, self.init_trunk)
        self.energy_head = MODELS.build(energy_head)
        self.refiner = TASK_UTILS.build(refiner) if refiner else None
        self.candidates = TASK_UTILS.build(candidates) if candidates else None
        self.clip_boxes = clip_boxes
        self.init_trunk_from = init_trunk_from

    def init_weights(self) -> None:
        """Initialise as configured, then copy the box head (it may be pretrained by then)."""
        super().init_weights()
        self.init_trunk()

    def init_trunk(self) -> str:
        """Copy the detector's box head into the trunk if ``init_trunk_from='auto'``; says what."""
        if self.init_trunk_from is None:
            return "trunk starts fresh (init_trunk_from=None)"
        return copy_trunk_from_box_head(self.detector, self.energy_head)

    def extract_neck(self, batch_inputs: Tensor) -> Sequence[Tensor]:
        """(B, 3, H, W) preprocessed images -> the energy head's maps, no gradient if frozen."""
        return self.extract_features(batch_inputs)

    extract_feat = extract_neck

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of the energy head, and of the detector unless it is frozen.

        Ignored and crowd boxes are not trained on; a batch without any ground truth gives a zero
        connected to the head's parameters (so that distributed training goes on).
        """
        losses: dict[str, Tensor] = {}
        if self.freeze_detector:
            neck_outputs = self.extract_neck(batch_inputs)
        else:
            with self.capture_features() as features:
                losses.update(self.detector.loss(batch_inputs, batch_data_samples))
            neck_outputs = features()
        feats = self.energy_head.prepare(
            neck_outputs, detach=self.freeze_detector, input_shape=batch_inputs.shape[-2:]
        )
        boxes, batch_index, labels = self._ground_truth(batch_data_samples, batch_inputs.device)
        # As in mmdet: divide by the mean count per process, so that gradients averaged over
        # processes equal those of one process with all images. It may be below 1, and 0 where no
        # process has a box: the objectives' mean is defined there.
        count = reduce_mean(boxes.new_tensor(float(len(boxes))))
        losses.update(self.energy_head.loss(feats, boxes, batch_index, labels, avg_factor=count))
        return losses

    def _ground_truth(
        self, batch_data_samples: SampleList, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        boxes, labels, index = [], [], []
        for i, sample in enumerate(batch_data_samples):
            gt = sample.gt_instances
            box = getattr(gt.bboxes, "tensor", gt.bboxes).to(device).float().reshape(-1, 4)
            keep = self.energy_head.is_trainable_box(box)
            boxes.append(box[keep])
            labels.append(gt.labels.to(device)[keep])
            index.append(torch.full((int(keep.sum()),), i, dtype=torch.long, device=device))
        return torch.cat(boxes), torch.cat(index), torch.cat(labels)

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> SampleList:
        """Detect, then refine. See the class for what each ``pred_instances`` carries.

        Args:
            batch_inputs: (B, 3, H, W) preprocessed images.
            batch_data_samples: their data samples.
            rescale: boxes in original-image instead of network-input pixels.
        """
        with self.capture_features() as features:
            if self.candidates is None:
                samples = self.detector.predict(batch_inputs, batch_data_samples, rescale=rescale)
            else:
                with self.candidates.all_boxes(self.detector):
                    samples = self.detector.predict(
                        batch_inputs, batch_data_samples, rescale=rescale
                    )
        feats = self.energy_head.prepare(features(), input_shape=batch_inputs.shape[-2:])
        return self.refine(feats, samples, rescale)

    def refine(self, feats: Sequence[Tensor], samples: SampleList, rescale: bool) -> SampleList:
        """Refine the ``pred_instances`` of a batch in place.

        Args:
            feats: what ``energy_head.prepare`` returned for these images.
            samples: data samples with predictions.
            rescale: whether their boxes are in original-image pixels.
        """
        scales = [_scale_factor(sample, rescale) for sample in samples]
        if self.candidates is not None:
            for i, (sample, scale) in enumerate(zip(samples, scales)):
                found = sample.pred_instances
                fn = self._log_density_fn(feats, [found], [scale], first_image=i)
                log_density = log_density_of_reference(fn)
                sample.pred_instances = self.candidates(found, log_density)
        found = [sample.pred_instances for sample in samples]
        fn = self._log_density_fn(feats, found, scales)
        result = None
        if self.refiner is None:
            offsets = torch.zeros_like(fn.reference)
            log_density = log_density_of_reference(fn)
            accepted = torch.zeros(len(offsets), dtype=torch.long, device=offsets.device)
        else:
            result = self.refiner(fn, torch.zeros_like(fn.reference), found)
            offsets, log_density, accepted = result.y, result.log_density, result.accepted
        refined = decode_boxes(offsets, fn.reference)

        start = 0
        for sample, instances, scale in zip(samples, found, scales):
            rows = slice(start, start + len(instances))
            start = rows.stop
            # Through the scale and back would round boxes that did not move: write only others.
            moved = (offsets[rows] != 0).any(dim=1, keepdim=True)
            boxes = torch.where(moved, refined[rows].to(scale) / scale, instances.bboxes)
            if self.clip_boxes:
                boxes = clip_to_image(boxes, sample.metainfo, scale)
            instances.bboxes = boxes
            instances.log_density = log_density[rows]
            instances.accepted_steps = accepted[rows].long()
            reference = fn.reference[rows]
            if getattr(result, "covariance", None) is not None:
                covariance = change_reference(result.covariance[rows], reference, boxes * scale)
                instances.box_cov = covariance
                instances.box_std = covariance.diagonal(dim1=1, dim2=2).sqrt()
                instances.side_std = decode_side_std(boxes, covariance)
                instances.ess, instances.log_prob = result.ess[rows], result.log_prob[rows]
                if result.samples is not None:
                    drawn = decode_boxes(result.samples[rows], reference.unsqueeze(1))
                    instances.box_samples = drawn.to(scale) / scale
            elif "box_cov" in instances:
                covariance = change_reference(instances.box_cov, reference, boxes * scale)
                instances.box_cov = covariance
                instances.box_std = covariance.diagonal(dim1=1, dim2=2).sqrt()
            elif "box_std" in instances:
                covariance = torch.diag_embed(instances.box_std.square())
                covariance = change_reference(covariance, reference, boxes * scale)
                instances.box_std = covariance.diagonal(dim1=1, dim2=2).sqrt()
        return samples

    def _log_density_fn(
        self,
        feats: Sequence[Tensor],
        found: Sequence[InstanceData],
        scales: Sequence[Tensor],
        first_image: int = 0,
    ):
        boxes = torch.cat([inst.bboxes * scale for inst, scale in zip(found, scales)])
        labels = torch.cat([inst.labels for inst in found])
        counts = torch.tensor([len(inst) for inst in found], device=boxes.device)
        images = torch.arange(len(found), device=boxes.device) + first_image
        batch_index = images.repeat_interleave(counts)
        return self.energy_head.log_density_fn(feats, boxes, batch_index, labels)

    def _forward(self, batch_inputs: Tensor, batch_data_samples=None):
        return self.detector._forward(batch_inputs, batch_data_samples)


def _scale_factor(sample, rescale: bool) -> Tensor:
    """(4,) network-input pixels per pixel of the predicted boxes."""
    width, height = sample.metainfo.get("scale_factor", (1.0, 1.0)) if rescale else (1.0, 1.0)
    return sample.pred_instances.bboxes.new_tensor([width, height, width, height])


def clip_to_image(boxes: Tensor, metainfo: dict, scale: Tensor | float = 1.0) -> Tensor:
    """Clip boxes to the image as it lies in the network's input, padding not included.

    ``Pad`` overwrites ``img_shape``, so the size comes from ``ori_shape`` and ``scale_factor``
    where both are known. The padding of a flipped image may lie on any side: then ``img_shape``.

    Args:
        boxes: (..., 4) ``(x1, y1, x2, y2)``.
        metainfo: of the data sample.
        scale: network-input pixels per pixel of ``boxes``, a number or (4,).
    """
    height, width = metainfo["img_shape"][:2]
    if "scale_factor" in metainfo and "ori_shape" in metainfo and not metainfo.get("flip"):
        (scale_x, scale_y), original = metainfo["scale_factor"], metainfo["ori_shape"]
        height, width = min(height, original[0] * scale_y), min(width, original[1] * scale_x)
    limit = boxes.new_tensor([width, height, width, height]) / scale
    return torch.minimum(boxes.clamp(min=0), limit)
