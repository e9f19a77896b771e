"""Any mmdet detector with an energy head on its features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample, SampleList
from mmengine.config import ConfigDict
from torch import Tensor

from ...energy import Refiner, evaluate_only
from ..flip_mean import FlipMean, check_flips, mirror
from ..masks import check_masks_from, masks_can_wait, predict_masks, recording_features
from ..pixels import box_scale, clip_to_image
from .detector_wrapper import DetectorWrapper, check_regression, detector_covariance
from .dry_run import default_source, dry_run
from .head_levels import complete_levels, leaves_out_levels
from .peculiarities import (
    predict_boxes,
    refuse_without_boxes,
    single_image_preprocessor,
    warn_without_boxes,
)
from .refined_boxes import add_last_pixel, write_refined_boxes
from .side_intervals import SideIntervals
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

    A refiner with ``num_modes=K`` adds

    - ``modes`` (n, K, 4): boxes of distinct modes by descending log-density, in the pixels of
      ``bboxes``; the first is the box itself. NaN where there are fewer than K;
    - ``mode_mass`` (n, K): share of the density that belongs to each mode, sum 1; NaN likewise.

    With any other refiner ``box_cov``, ``box_std`` and ``side_std`` are the detector's, if it gives
    them, converted to the refined box. A calibrated model (:func:`ebm_mmdet.apis.calibrate`) adds
    ``side_interval`` (n, 4, 2), intervals of x1, y1, x2, y2 in the pixels of ``bboxes``, where it
    predicts with its own refiner.

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
        legacy_plus_one: whether boxes go back to the original image as in maskrcnn-benchmark, where
            a width is x2 - x1 + 1 there too (:mod:`ebm_mmdet.models.inclusive_boxes`). All boxes
            then move at the right and at the bottom by 1 - 1/r pixels, also those that are not
            refined.
        masks_from: the boxes that predicted masks belong to. ``'detected'``: the detector's, before
            they are refined. ``'refined'``: ``roi_head.predict_mask`` runs once more, on the
            refined boxes, for two-stage detectors.
        flips: mirror images (``'horizontal'``, ``'vertical'``, ``'diagonal'``) over which f is
            averaged when boxes are refined, with the image as it is. Each takes the time of
            the detector's features and of the refinement once more. They suit a head that has
            learned from such images. The detections are those of the image as it is.
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
            ``masks_from='refined'`` is not possible with it, the refiner has ``regression_steps``
            and the head no ``regression``, ``min_score`` is negative or not finite, a name in
            ``flips`` is unknown or the head cannot be averaged, or ``train_cfg`` or ``test_cfg`` is
            given.
        RuntimeError: values of ``energy_head`` are left out, and the detector cannot run here.

    Source: Gustafsson et al., ECCV 2020 (1909.12297), sec. 4.1, algorithm 1.
    """

    # Of the class: models that were pickled before have no such attributes.
    legacy_plus_one = False
    flips: tuple[str, ...] = ()
    side_intervals: SideIntervals | None = None
    """Set by :func:`~ebm_mmdet.models.attach_intervals`."""

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
        legacy_plus_one: bool = False,
        masks_from: str = "detected",
        min_score: float = 0.0,
        data_preprocessor: dict | None = None,
        backbone: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
        flips: Sequence[str] = (),
    ) -> None:
        if init_trunk_from not in ("auto", None):
            raise ValueError(f"init_trunk_from={init_trunk_from!r}; use 'auto' or None")
        if clip_boxes not in (True, False, "all"):
            raise ValueError(f"clip_boxes={clip_boxes!r}; use True, False or 'all'")
        # Built, and not its config: a detector may have a preprocessor that its config lacks.
        inner = MODELS.build(ConfigDict(detector))
        refuse_without_boxes(inner)
        warn_without_boxes(inner)
        check_masks_from(masks_from, inner)
        super().__init__(data_preprocessor or single_image_preprocessor(inner), init_cfg)
        feature_source = feature_source or default_source(inner)
        incomplete = leaves_out_levels(energy_head)
        run = dry_run(inner) if feature_source is None or incomplete else None
        feature_source = feature_source or default_source(inner, run)
        self.wrap(inner, feature_source or "neck", freeze_detector, train_cfg, test_cfg, min_score)
        if incomplete:
            energy_head = complete_levels(energy_head, inner, self.feature_sources, run)
        self.energy_head = MODELS.build(energy_head)
        self.refiner = TASK_UTILS.build(refiner) if refiner else None
        check_regression(self.energy_head, self.refiner)
        self.candidates = TASK_UTILS.build(candidates) if candidates else None
        self.clip_boxes, self.masks_from = clip_boxes, masks_from
        self.legacy_plus_one = legacy_plus_one
        self.flips = check_flips(flips, self.energy_head)
        self.init_trunk_from = init_trunk_from
        self._trunk_is_loaded = False

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
        feats = self.read(features(), batch_inputs)
        if selects:
            self.select(feats, samples, rescale)
        if later and selects:
            predict_masks(self.detector, record[-1], samples, rescale, replace=False)
        return feats, samples, record[-1] if later and self.masks_from == "refined" else None

    def read(self, maps: Sequence[Tensor], batch_inputs: Tensor) -> list[Tensor]:
        """What the energy head reads in prediction: the maps, and those of mirror images.

        Args:
            maps: the detector's maps of ``batch_inputs``.
            batch_inputs: (B, 3, H, W) preprocessed images.

        Returns:
            What :meth:`refine` and :meth:`move` take as ``feats``.
        """
        shape = batch_inputs.shape[-2:]
        if not self.flips:
            return self.energy_head.prepare(maps, input_shape=shape)
        mirrored = [self.extract_maps(mirror(batch_inputs, flip)) for flip in self.flips]
        mean = FlipMean(self.energy_head, ("", *self.flips), shape)
        return mean.prepare([maps, *mirrored])

    def select(self, feats: Sequence[Tensor], samples: SampleList, rescale: bool) -> None:
        """Apply ``candidates`` to the ``pred_instances`` of a batch, in place."""
        for i, sample in enumerate(samples):
            found, scale = sample.pred_instances, box_scale(sample, rescale)
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
            feats: what :meth:`read` or ``energy_head.prepare`` returned for these images.
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
            feats: what :meth:`read` or ``energy_head.prepare`` returned for these images.
            samples: data samples with predictions.
            rescale: whether their boxes are in original-image pixels.
            refiner: as in :meth:`refine`.
            masks: features from which masks of the refined boxes are made, or None to leave masks.

        Raises:
            ValueError: ``min_score`` is set, and the refiner samples.
        """
        scales = [box_scale(sample, rescale) for sample in samples]
        found = [sample.pred_instances for sample in samples]
        references, results = self.find_modes(
            feats,
            [each.bboxes.float() * scale for each, scale in zip(found, scales)],
            [each.labels for each in found],
            refiner or self.refiner,
            [detector_covariance(each) for each in found],
            scores=[each.scores for each in found] if self.min_score > 0 else None,
        )
        for sample, scale, reference, result in zip(samples, scales, references, results):
            write_refined_boxes(sample, scale, reference, result, self.clip_boxes)
        if masks is not None:
            predict_masks(self.detector, masks, samples, rescale, replace=True)
        if self.legacy_plus_one and rescale:
            for sample, scale in zip(samples, scales):
                add_last_pixel(sample.pred_instances, scale)
        # Last: intervals belong to the boxes as they are, of the model's own refiner.
        if refiner is None and self.side_intervals is not None:
            for sample in samples:
                self.side_intervals.add_to(sample, rescale)
        return samples

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


def _annotation(sample: DetDataSample, device: torch.device) -> tuple[Tensor, Tensor]:
    """Boxes (n, 4) float32 and labels (n,) of an image."""
    truth = sample.gt_instances
    boxes = getattr(truth.bboxes, "tensor", truth.bboxes)
    return boxes.to(device).float().reshape(-1, 4), truth.labels.to(device)
