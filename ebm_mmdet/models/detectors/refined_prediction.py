"""The prediction of an ``EBMDetector``: detect, select candidates, refine, write the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mmdet.structures import SampleList
from torch import Tensor

from ...energy import Refiner, evaluate_only
from ..flip_mean import FlipMean, mirror
from ..masks import masks_can_wait, predict_masks, recording_features
from ..pixels import box_scale, enlarged
from ..task_modules import EnergyGuidedNMS
from .detector_wrapper import DetectorWrapper, detector_covariance
from .peculiarities import predict_boxes
from .refined_boxes import add_last_pixel, write_refined_boxes
from .side_intervals import SideIntervals

__all__ = ["RefinedPrediction"]


class RefinedPrediction(DetectorWrapper):
    """The part of ``EBMDetector`` that predicts, with what its ``__init__`` has stored.

    :meth:`predict` is :meth:`detect`, then :meth:`move`. They are apart for callers that do
    something between them, or have features and detections from elsewhere.
    """

    refiner: Refiner | None
    candidates: EnergyGuidedNMS | None
    clip_boxes: bool | str
    masks_from: str
    # These have values: models that were pickled before them have no such attributes.
    legacy_plus_one: bool = False
    flips: tuple[str, ...] = ()
    enlarge: int = 1
    side_intervals: SideIntervals | None = None
    """Set by :func:`~ebm_mmdet.models.attach_intervals`."""

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
        with self.maps_of(batch_inputs) as maps:
            samples = predict_boxes(detector, batch_inputs, batch_data_samples, rescale)
        feats = self.read(maps(), batch_inputs)
        if selects:
            self.select(feats, samples, rescale)
        if later and selects:
            predict_masks(self.detector, record[-1], samples, rescale, replace=False)
        return feats, samples, record[-1] if later and self.masks_from == "refined" else None

    def extract_maps(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the detector's ``extract_feat`` on images as the head sees them, ``enlarge`` times.

        Args:
            batch_inputs: (B, 3, H, W) preprocessed images.

        Returns:
            Maps (B, C, h, w) of every ``feature_source``, without gradient if frozen.
        """
        return super().extract_maps(enlarged(batch_inputs, self.enlarge))

    @contextmanager
    def maps_of(self, batch_inputs: Tensor) -> Iterator[Callable[[], tuple[Tensor, ...]]]:
        """Context in which the detector runs on images whose maps are wanted.

        Args:
            batch_inputs: (B, 3, H, W) preprocessed images.

        Yields:
            A function that returns what :meth:`extract_maps` would: the maps that were captured
            meanwhile, or those of the enlarged images.
        """
        if self.enlarge > 1:
            yield lambda: self.extract_maps(batch_inputs)
            return
        with self.capture_features() as features:
            yield features

    def read(self, maps: Sequence[Tensor], batch_inputs: Tensor) -> list[Tensor]:
        """What the energy head reads in prediction: the maps, and those of mirror images.

        Args:
            maps: what :meth:`extract_maps` returns of ``batch_inputs``.
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
            # Survivors have every label of the candidates; they are checked when they move.
            _, (here,) = self.find_modes(feats, boxes, labels, evaluate_only, (), i, validate=False)
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
