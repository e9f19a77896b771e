"""Any mmdet detector with an energy head on its features."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from mmdet.models.data_preprocessors import MultiBranchDataPreprocessor
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import SampleList
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from torch import Tensor, nn

from ...energy import RefineChosen, RefinementResult, Refiner, evaluate_only
from ..box_coding import change_reference, decode_boxes
from ..feature_maps import fill_in_levels
from ..heads import EBMBBoxHead
from ..masks import has_masks, masks_can_wait, predict_masks, recording_features
from ..uncertain_instances import UncertainInstances
from .detector_wrapper import DetectorWrapper, detector_covariance
from .dry_run import DryRun, default_source, dry_run
from .peculiarities import (
    network_pixels,
    predict_boxes,
    refuse_without_boxes,
    warn_without_boxes,
)
from .trunk_init import copy_trunk_from_box_head

__all__ = ["EBMDetector", "clip_to_image"]


@MODELS.register_module()
class EBMDetector(DetectorWrapper, BaseDetector):
    """Wraps a detector: an energy head evaluates f at boxes, and a refiner moves boxes to larger f.

    The detector is used unchanged. Its features are captured while it runs, so they are
    computed once per image, and boxes are refined in network-input pixels. Predictions keep scores,
    labels and every other field of the detector, and each box gains

    - ``log_density`` (n,) float32: ``f`` at the final box (before clipping),
    - ``accepted_steps`` (n,) int64: steps that moved the box.

    A refiner that samples (``ImportanceMeanRefiner``, ``ProposalRefiner``) adds, relative to the
    final box in encoded coordinates (:mod:`ebm_mmdet.models.box_coding`),

    - ``box_cov`` (n, 4, 4) and ``box_std`` (n, 4), the square roots of its diagonal;
    - ``side_std`` (n, 4): standard deviations of x1, y1, x2, y2 in the pixels of ``bboxes``,
      computed each time it is read (:class:`~ebm_mmdet.models.UncertainInstances`);
    - ``ess`` (n,): effective sample size of these estimates;
    - ``log_prob`` (n,): normalised log-density of the box, in encoded coordinates relative to the
      detection;
    - ``box_samples`` (n, S, 4), if configured: boxes drawn from the posterior, in the pixels of
      ``bboxes``.

    With any other refiner ``box_cov``, ``box_std`` and ``side_std`` are the detector's, if it gives
    them, converted to the refined box.

    Args:
        detector: config of any mmdet detector.
        energy_head: config of the energy head (``EBMBBoxHead``). Of ``in_channels``, ``strides``
            and ``feature_levels``, those that are left out are found by running the detector's
            ``extract_feat`` once on a blank image, when the model is built; the detector does not
            change by that (:func:`~ebm_mmdet.models.feature_maps.fill_in_levels` says what is
            chosen, and a line of the log).
        refiner: config of the refiner (``GradientAscentRefiner``). None keeps the detector's boxes
            bit for bit, as for "before refinement" in every comparison.
        candidates: which boxes are refined. None: the detector's final boxes. A config of
            ``EnergyGuidedNMS``: all boxes above a score threshold, then NMS by log-density (the
            papers' pipeline). Masks are predicted after this NMS.
        freeze_detector: if True, the detector gets no gradients, stays in eval mode and is
            byte-identical after training. If False, its losses and the energy head are trained
            jointly.
        init_trunk_from: ``'auto'`` copies the shared layers of the detector's box head into
            the trunk each time a plain detector checkpoint is loaded, if these layers exist and
            fit. A trunk that a checkpoint or ``energy_head.init_cfg`` has set is not overwritten.
            ``None`` keeps the fresh initialisation.
        feature_source: dotted name of the detector's module whose output is used as features, or
            several names, whose outputs are used in this order, such as
            ``("neck", "backbone.stage1")`` if the neck is too coarse for the objects. Each module
            must return a map or a sequence of maps. By default the neck, else the backbone.
        min_score: detections below this score are not refined: ``bboxes`` keep every bit, unless
            ``clip_boxes='all'``, and ``accepted_steps`` is 0. Boxes that hardly count then cost one
            evaluation of f each. 0 refines all. Refiners that sample need 0.
        clip_boxes: whether boxes end at the border of the image. True: a refined box leaves it no
            further than the detected box did, and a box that did not move keeps every bit, so that
            before and after differ by the refinement alone. ``'all'``: every box is clipped,
            moved or not, also those of detectors that do not clip (YOLOX), or clip to the padded
            image (RTMDet). False: none, as in the papers.
        masks_from: the boxes that predicted masks belong to. ``'detected'``: the detector's, before
            they are refined. ``'refined'``: ``roi_head.predict_mask`` runs once more, on the
            refined boxes, for two-stage detectors.
        data_preprocessor: by default the detector's own; of a semi-supervised detector, the one for
            single images.
        backbone: not read. ``dict()`` here lets ``init_detector`` of mmdet 3.3 load the config,
            which looks for ``model.backbone`` unless it is given ``cfg_options``.
        train_cfg: refused unless empty, because only the wrapped detector has one.
        test_cfg: likewise.
        init_cfg: mmengine's.

    Raises:
        ValueError: the detector has no module of a name in ``feature_source``, it does not predict
            boxes (PanopticFPN, MaskFormer), values of ``energy_head`` do not fit its maps,
            ``masks_from='refined'`` is not possible with it, ``min_score`` is negative or not
            finite, or ``train_cfg`` or ``test_cfg`` is given.
        RuntimeError: values of ``energy_head`` are left out, and the detector cannot run here.

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
        feature_source: str | Sequence[str] | None = None,
        clip_boxes: bool | str = True,
        masks_from: str = "detected",
        min_score: float = 0.0,
        data_preprocessor: dict | None = None,
        backbone: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if init_trunk_from not in ("auto", None):
            raise ValueError(f"init_trunk_from={init_trunk_from!r}; use 'auto' or None")
        if clip_boxes not in (True, False, "all"):
            raise ValueError(f"clip_boxes={clip_boxes!r}; use True, False or 'all'")
        if not 0 <= min_score < math.inf:
            raise ValueError(
                f"min_score={min_score}; give the lowest score of a box to refine, 0 for all"
            )
        # Built, and not its config: a detector may have a preprocessor that its config lacks.
        inner = MODELS.build(ConfigDict(detector))
        refuse_without_boxes(inner)
        warn_without_boxes(inner)
        _check_masks_from(masks_from, inner)
        super().__init__(data_preprocessor or _single_branch(inner), init_cfg)
        feature_source = feature_source or default_source(inner)
        run = None
        if feature_source is None or _leaves_out_levels(energy_head):
            run = dry_run(inner)
            feature_source = feature_source or default_source(inner, run)
        self.wrap(inner, feature_source or "neck", freeze_detector, train_cfg, test_cfg)
        if run is not None and _leaves_out_levels(energy_head):
            energy_head = self._complete(energy_head, run)
        self.energy_head = MODELS.build(energy_head)
        self.refiner = TASK_UTILS.build(refiner) if refiner else None
        self.candidates = TASK_UTILS.build(candidates) if candidates else None
        self.clip_boxes, self.masks_from = clip_boxes, masks_from
        self.min_score = float(min_score)
        self.init_trunk_from = init_trunk_from
        self._trunk_is_loaded = False

    def _complete(self, energy_head: Mapping, run: DryRun) -> dict:
        """The config of the head, with what it leaves out taken from the maps of a dry run."""
        for name in self.feature_sources:
            if name not in run.outputs:
                raise ValueError(
                    f"feature_source={name!r} gives no maps where {type(self.detector).__name__} "
                    "computes its features; choose one of the modules that do: "
                    + ", ".join(run.candidates())
                )
        maps = [each for name in self.feature_sources for each in run.outputs[name]]
        head = fill_in_levels(energy_head, maps)
        found = {name: value for name, value in head.items() if energy_head.get(name) != value}
        print_log(
            f"energy_head on {' and '.join(self.feature_sources)}: "
            + ", ".join(f"{name}={value}" for name, value in found.items()),
            logger="current",
        )
        return head

    def init_weights(self) -> None:
        """Initialise as configured, then copy the box head, which may now be pretrained."""
        super().init_weights()
        self.init_trunk()

    def init_trunk(self) -> str:
        """Copy the detector's box head into the trunk, unless something else has initialised it.

        Returns:
            A clause for the loading message that describes the result.
        """
        if self.init_trunk_from is None:
            return "trunk starts fresh (init_trunk_from=None)"
        if self._trunk_is_loaded:
            return "trunk keeps its values (a checkpoint has set them)"
        if self.energy_head.init_cfg:
            return "trunk keeps its values (energy_head.init_cfg has set them)"
        return copy_trunk_from_box_head(self.detector, self.energy_head)

    def after_plain_checkpoint(self) -> str:
        """A plain detector checkpoint has been loaded: its box head may initialise the trunk."""
        return self.init_trunk()

    def after_own_checkpoint(self, missing: Iterable[str]) -> None:
        """A checkpoint of the wrapper has been loaded: do not overwrite the trunk any more."""
        self._trunk_is_loaded = not any("energy_head.trunk." in key for key in missing)

    def extract_feat(self, batch_inputs: Tensor) -> Sequence[Tensor]:
        """(B, 3, H, W) preprocessed images -> the energy head's maps; no gradient if frozen."""
        return self.extract_maps(batch_inputs)

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of the energy head, and of the detector unless it is frozen.

        Ignored and crowd boxes are not trained on; a batch without any ground truth gives a zero
        connected to the head's parameters, so that distributed training continues.
        """
        # First, because some detectors change the samples.
        annotated = [_annotation(sample, batch_inputs.device) for sample in batch_data_samples]
        losses: dict[str, Tensor] = {}
        if self.freeze_detector:
            maps = self.extract_maps(batch_inputs)
        else:
            with self.capture_features() as features:
                losses.update(self.detector.loss(batch_inputs, batch_data_samples))
            maps = features()
        feats = self.energy_head.prepare(
            maps, detach=self.freeze_detector, input_shape=batch_inputs.shape[-2:]
        )
        losses.update(self.energy_losses(feats, annotated))
        return losses

    def predict(
        self,
        batch_inputs: Tensor,
        batch_data_samples: SampleList,
        rescale: bool = True,
        refiner: Refiner | None = None,
    ) -> SampleList:
        """Detect, then refine. The class describes the fields of ``pred_instances``.

        Args:
            batch_inputs: (B, 3, H, W) preprocessed images.
            batch_data_samples: their data samples.
            rescale: return boxes in pixels of the original image instead of the network's input.
            refiner: the refiner of this call, see :meth:`refine`.
        """
        feats, samples, masks = self.detect(batch_inputs, batch_data_samples, rescale)
        return self.move(feats, samples, rescale, refiner, masks)

    def detect(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True
    ) -> tuple[list[Tensor], SampleList, Sequence[Tensor] | None]:
        """Detect, and select candidates, without refinement.

        Args:
            batch_inputs: (B, 3, H, W) preprocessed images.
            batch_data_samples: their data samples.
            rescale: return boxes in pixels of the original image instead of the network's input.

        Returns:
            What :meth:`move` takes: the energy head's maps, the data samples with the detector's
            boxes, and the features for masks of refined boxes, which are None unless
            ``masks_from='refined'``.
        """
        detector, record = self.detector, []
        selects = self.candidates is not None
        later = masks_can_wait(detector) and (selects or self.masks_from == "refined")
        if selects:
            detector = self.candidates.without_nms(detector)
        if later:
            detector, record = recording_features(detector)
        with self.capture_features() as features:
            samples = predict_boxes(detector, batch_inputs, batch_data_samples, rescale)
        feats = self.energy_head.prepare(features(), input_shape=batch_inputs.shape[-2:])
        if selects:
            self.select(feats, samples, rescale)
        if later and selects:
            self._set_masks(record[-1], samples, rescale, replace=False)
        return feats, samples, record[-1] if later and self.masks_from == "refined" else None

    def _set_masks(
        self, maps: Sequence[Tensor], samples: SampleList, rescale: bool, replace: bool
    ) -> None:
        """Set the masks of all predictions to those of their boxes."""
        scales = [_scale_factor(sample, rescale) for sample in samples]
        predict_masks(self.detector, maps, samples, scales, rescale, replace)

    def select(self, feats: Sequence[Tensor], samples: SampleList, rescale: bool) -> None:
        """Apply ``candidates`` to the ``pred_instances`` of a batch, in place."""
        for i, sample in enumerate(samples):
            found, scale = sample.pred_instances, _scale_factor(sample, rescale)
            boxes, labels = [found.bboxes.float() * scale], [found.labels]
            _, (here,) = self.find_modes(feats, boxes, labels, evaluate_only, first_image=i)
            sample.pred_instances = self.candidates(found, here.log_density)

    def refine(
        self,
        feats: Sequence[Tensor],
        samples: SampleList,
        rescale: bool,
        refiner: Refiner | None = None,
    ) -> SampleList:
        """Select candidates, if so configured, and refine the ``pred_instances`` in place.

        Args:
            feats: what ``energy_head.prepare`` returned for these images.
            samples: data samples with predictions; masks that they have stay.
            rescale: whether their boxes are in original-image pixels.
            refiner: the refiner of this call, instead of the model's own.
                :func:`~ebm_mmdet.energy.evaluate_only` leaves the boxes where they are.
        """
        if self.candidates is not None:
            self.select(feats, samples, rescale)
        return self.move(feats, samples, rescale, refiner)

    def move(
        self,
        feats: Sequence[Tensor],
        samples: SampleList,
        rescale: bool,
        refiner: Refiner | None = None,
        masks: Sequence[Tensor] | None = None,
    ) -> SampleList:
        """Refine the ``pred_instances`` of a batch in place, those with ``min_score``.

        Args:
            feats: what ``energy_head.prepare`` returned for these images.
            samples: data samples with predictions.
            rescale: whether their boxes are in original-image pixels.
            refiner: as in :meth:`refine`.
            masks: features from which masks of the refined boxes are made, or None to leave masks.

        Raises:
            ValueError: ``min_score`` is set, and the refiner samples.
        """
        scales = [_scale_factor(sample, rescale) for sample in samples]
        found = [sample.pred_instances for sample in samples]
        refiner = refiner or self.refiner
        if self.min_score > 0 and refiner is not None:
            scores = torch.cat([each.scores for each in found])
            refiner = RefineChosen(refiner, scores >= self.min_score)
        references, results = self.find_modes(
            feats,
            [each.bboxes.float() * scale for each, scale in zip(found, scales)],
            [each.labels for each in found],
            refiner,
            [detector_covariance(each) for each in found],
        )
        for sample, scale, reference, result in zip(samples, scales, references, results):
            self._write(sample, scale, reference, result)
        if masks is not None:
            self._set_masks(masks, samples, rescale, replace=True)
        return samples

    def _write(self, sample, scale: Tensor, reference: Tensor, result: RefinementResult) -> None:
        """Write the results of an image into its sample.

        Args:
            sample: the data sample whose ``pred_instances`` are changed.
            scale: (4,) network-input pixels per pixel of its boxes.
            reference: (n, 4) boxes in network-input pixels, before refinement.
            result: the refinement's result, in offsets from ``reference``.
        """
        instances = sample.pred_instances
        # Scaling and scaling back would round boxes that did not move: write only the others.
        moved = (result.y != 0).any(dim=1, keepdim=True)
        refined = decode_boxes(result.y, reference) / scale
        detected = instances.bboxes.to(refined.dtype)
        if self.clip_boxes:
            clipped = clip_to_image(refined, sample.metainfo, scale)
            # A pixel of tolerance, because detectors that clip do so at a rounded border.
            outside = detected - clip_to_image(detected, sample.metainfo, scale)
            far = (outside * scale).abs() > 1
            low, high = torch.minimum(detected, clipped), torch.maximum(detected, clipped)
            refined = torch.where(far, torch.minimum(torch.maximum(refined, low), high), clipped)
        boxes = torch.where(moved, refined, detected)
        if self.clip_boxes == "all":
            boxes = clip_to_image(boxes, sample.metainfo, scale)
        instances.bboxes = boxes
        instances.log_density = result.log_density
        instances.accepted_steps = result.accepted.long()
        covariance = result.covariance
        if covariance is not None:
            instances.ess, instances.log_prob = result.ess, result.log_prob
            if result.samples is not None:
                drawn = decode_boxes(result.samples, reference.unsqueeze(1))
                instances.box_samples = drawn / scale
        else:
            covariance = detector_covariance(instances)
        if covariance is not None:
            covariance = change_reference(covariance, reference, boxes * scale)
            instances.box_cov = covariance
            instances.box_std = covariance.diagonal(dim1=1, dim2=2).sqrt()
            sample.pred_instances = UncertainInstances.of(instances)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: SampleList | None = None):
        """Outputs of the networks, for ``mode='tensor'`` and for counters of operations.

        Returns:
            The detector's own output in this mode, and f (B, 100) of 100 boxes for each image,
            which is the number that a COCO detector returns.
        """
        with self.capture_features() as features:
            outputs = self.detector._forward(batch_inputs, batch_data_samples)
        size = batch_inputs.shape[-2:]
        feats = self.energy_head.prepare(features(), input_shape=size)
        images = torch.arange(len(batch_inputs), device=batch_inputs.device)
        whole = torch.tensor([0.0, 0.0, size[1], size[0]], device=batch_inputs.device)
        boxes = whole.expand(len(images), _TENSOR_MODE_BOXES, 4)
        return outputs, self.energy_head.log_density(feats, boxes, images, torch.zeros_like(images))


_TENSOR_MODE_BOXES = 100


def _annotation(sample, device: torch.device) -> tuple[Tensor, Tensor]:
    """Boxes (n, 4) float32 and labels (n,) of an image."""
    truth = sample.gt_instances
    boxes = getattr(truth.bboxes, "tensor", truth.bboxes)
    return boxes.to(device).float().reshape(-1, 4), truth.labels.to(device)


def _scale_factor(sample, rescale: bool) -> Tensor:
    """(4,) float32 network-input pixels per pixel of the predicted boxes."""
    device = sample.pred_instances.bboxes.device
    return network_pixels(sample, device) if rescale else torch.ones(4, device=device)


def _leaves_out_levels(energy_head: Mapping) -> bool:
    """Whether the config is of a head on maps of the detector and lacks some of its values."""
    kind = energy_head["type"]
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(kind, type) and issubclass(kind, EBMBBoxHead)):
        return False
    return any(energy_head.get(name) is None for name in _LEVELS)


_LEVELS = ("in_channels", "strides", "feature_levels")


def _single_branch(detector: nn.Module) -> nn.Module:
    """The detector's preprocessor, for single images: the energy head learns from these."""
    preprocessor = detector.data_preprocessor
    if isinstance(preprocessor, MultiBranchDataPreprocessor):
        return preprocessor.data_preprocessor
    return preprocessor


def _check_masks_from(masks_from: str, detector: nn.Module) -> None:
    """ValueError if the switch has no such value, or the detector cannot do what it asks for."""
    if masks_from not in ("detected", "refined"):
        raise ValueError(f"masks_from={masks_from!r}; use 'detected' or 'refined'")
    if masks_from == "refined" and not masks_can_wait(detector):
        raise ValueError(
            f"masks_from='refined', but {type(detector).__name__} has no roi_head.predict_mask "
            "that takes boxes and features alone; use masks_from='detected'"
        )
    if has_masks(detector):
        print_log(
            f"Masks belong to the {masks_from} boxes (masks_from={masks_from!r}).",
            logger="current",
        )


def clip_to_image(boxes: Tensor, metainfo: dict, scale: Tensor | float = 1.0) -> Tensor:
    """Clip boxes to the image in the network's input, without its padding.

    ``Pad`` overwrites ``img_shape``, so the size is computed from ``ori_shape`` and
    ``scale_factor`` if both are known. The padding of a flipped image may be on any side; for such
    an image ``img_shape`` is used.

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
