"""Any mmdet detector with an energy head on its features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample, SampleList
from mmengine.config import ConfigDict
from torch import Tensor

from ..flip_mean import check_flips
from ..masks import check_masks_from
from ..pixels import check_enlarge, clip_to_image
from .detector_wrapper import check_regression
from .dry_run import default_source, dry_run
from .head_levels import complete_levels, leaves_out_levels
from .peculiarities import refuse_without_boxes, single_image_preprocessor, warn_without_boxes
from .refined_prediction import RefinedPrediction
from .trunk_init import copy_trunk_from_box_head

__all__ = ["EBMDetector", "clip_to_image"]


@MODELS.register_module()
class EBMDetector(RefinedPrediction, BaseDetector):
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
        enlarge: factor by which the image is enlarged (bilinearly) for the maps that the energy
            head reads, in training and in prediction; the detections are those of the image as it
            is. ``strides`` of the head are in pixels of the image as it is: with 2, a map of stride
            8 has a cell for every 4 of these. The detector's features are then computed once more,
            in 4 times the time with 2. 1 captures the maps while the detector runs, at no cost.
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
            ``flips`` is unknown or the head cannot be averaged, ``enlarge`` is not a whole number
            from 1 on, or ``train_cfg`` or ``test_cfg`` is given.
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
        legacy_plus_one: bool = False,
        masks_from: str = "detected",
        min_score: float = 0.0,
        data_preprocessor: dict | None = None,
        backbone: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
        flips: Sequence[str] = (),
        enlarge: int = 1,
    ) -> None:
        if init_trunk_from not in ("auto", None):
            raise ValueError(f"init_trunk_from={init_trunk_from!r}; use 'auto' or None")
        if clip_boxes not in (True, False, "all"):
            raise ValueError(f"clip_boxes={clip_boxes!r}; use True, False or 'all'")
        check_enlarge(enlarge)
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
            energy_head = complete_levels(energy_head, inner, self.feature_sources, run, enlarge)
        self.energy_head = MODELS.build(energy_head)
        self.refiner = TASK_UTILS.build(refiner) if refiner else None
        check_regression(self.energy_head, self.refiner)
        self.candidates = TASK_UTILS.build(candidates) if candidates else None
        self.clip_boxes, self.masks_from = clip_boxes, masks_from
        self.legacy_plus_one, self.enlarge = legacy_plus_one, enlarge
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
            with self.maps_of(batch_inputs) as captured:
                losses.update(self.detector.loss(batch_inputs, batch_data_samples))
            maps = captured()
        feats = self.energy_head.prepare(
            maps, detach=self.freeze_detector, input_shape=batch_inputs.shape[-2:]
        )
        losses.update(self.energy_losses(feats, annotated))
        return losses

    def _forward(self, batch_inputs: Tensor, batch_data_samples: SampleList | None = None):
        """Outputs of the networks, for ``mode='tensor'`` and for counters of operations.

        Returns:
            The detector's own output in this mode, and f (B, 100) of 100 boxes for each image,
            which is the number that a COCO detector returns.
        """
        with self.maps_of(batch_inputs) as maps:
            outputs = self.detector._forward(batch_inputs, batch_data_samples)
        size = batch_inputs.shape[-2:]
        feats = self.energy_head.prepare(maps(), input_shape=size)
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
