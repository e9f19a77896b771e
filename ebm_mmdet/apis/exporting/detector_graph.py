"""A whole wrapped detector as a module of fixed shapes: an image goes in, boxes come out."""

from __future__ import annotations

import torch
from mmdet.models import DetDataPreprocessor
from mmdet.models.dense_heads import YOLOXHead
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional

from ...energy import evaluate_only
from ...models import EBMDetector, ImportanceMeanRefiner
from ...models.task_modules.energy_guided_nms import at_most
from .one_stage import check_dense_head, dense_candidates
from .refinement_graph import check_refiner
from .suppression import Candidates, best, by_energy, by_scores
from .two_stage import check_roi_head, roi_candidates

__all__ = ["DetectorGraph", "left_out"]


class DetectorGraph(nn.Module):
    """Image (1, 3, H, W) -> boxes, scores, labels, log-densities, number, in fixed shapes.

    The image is what the test pipeline of the config gives: float32, BGR from 0 to 255 unless the
    pipeline says otherwise, resized to H x W; normalising and padding to a multiple of the stride
    are inside. Outputs have K rows, by descending scores, of which the first ``number`` are filled;
    the others have boxes 0, score 0, label -1, log-density -inf.

    - ``boxes`` (K, 4) float32 x1, y1, x2, y2 in pixels of the image that went in, refined, and
      clipped as ``clip_boxes`` of the model says;
    - ``scores`` (K,) float32, ``labels`` (K,) int64, ``log_density`` (K,) float32, ``number`` ()
      int64;
    - ``side_std`` (K, 4) float32 standard deviations in pixels of x1, y1, x2, y2, if the refiner
      is an ``ImportanceMeanRefiner``.

    They are those of ``EBMDetector.predict`` on the same image, up to rounding, as long as no more
    boxes exceed the score threshold than there are ``candidates``.

    Args:
        model: an ``EBMDetector`` in eval mode, on one of mmdet's detectors with one or two stages.
        image_size: (H, W) in pixels.
        count: K; by default ``max_per_img`` of the model, or 100 where that is missing, or at most
            0, which is mmdet's "all". No more than there are ``candidates``.
        candidates: places for boxes before suppression, those of the highest scores. By default
            1000, or 300 with ``EnergyGuidedNMS``, which evaluates f at all of them; or ``count`` if
            that is more.

    Attributes:
        count: K.
        places: places for boxes before suppression.
        limit: the largest number of boxes that ``predict`` gives; None: it has no limit.

    Raises:
        ValueError: a part of the model cannot be exported; the message names it. Or ``count`` or
            ``candidates`` is below 1, or ``count`` above ``candidates``.
    """

    input_names = ("image",)

    def __init__(
        self,
        model: EBMDetector,
        image_size: tuple[int, int],
        count: int | None = None,
        candidates: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("count", count), ("candidates", candidates)):
            if value is not None and value < 1:
                raise ValueError(f"{name} of boxes is {value}; give a number of 1 or more")
        if count and candidates and count > candidates:
            raise ValueError(
                f"count of boxes is {count}, but there are {candidates} candidates before "
                "suppression; give as many candidates or more"
            )
        check_refiner(model)
        _check_detector(model)
        self.model, self.image_size = model, tuple(image_size)
        self.guided = model.candidates
        most = at_most((vars(self.guided) if self.guided else self._test_cfg()).get("max_per_img"))
        self.places = candidates or max(300 if self.guided else 1000, count or 0)
        self.count = min(count or most or _BOXES, self.places)
        # YOLOX's head does not read it.
        unread = isinstance(getattr(model.detector, "bbox_head", None), YOLOXHead)
        self.limit = None if unread and not self.guided else most
        self.output_names = ("boxes", "scores", "labels", "log_density", "number")
        if isinstance(model.refiner, ImportanceMeanRefiner):
            self.output_names += ("side_std",)

    def example(self, seed: int = 0) -> tuple[Tensor]:
        """An input (1, 3, H, W) of noise, float32 from 0 to 255."""
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.rand(1, 3, *self.image_size, generator=generator) * 255
        return (pixels.to(next(self.model.parameters()).device),)

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        model = self.model
        inputs = _preprocess(model.data_preprocessor, image)
        with model.maps_of(inputs) as maps:
            found = self._candidates(model.detector.extract_feat(inputs))
        feats = model.energy_head.prepare(maps(), input_shape=inputs.shape[-2:])
        found = self._suppress(feats, found)
        exist = found.exist
        instances = InstanceData(
            bboxes=found.boxes.masked_fill(~exist[:, None], 0),
            scores=found.scores.clamp(min=0),
            labels=found.labels.masked_fill(~exist, 0),
        )
        sample = DetDataSample(metainfo=dict(img_shape=self.image_size), pred_instances=instances)
        (sample,) = model.move(feats, [sample], False, refiner=model.refiner or evaluate_only)
        found = sample.pred_instances
        outputs = [
            found.bboxes,
            found.scores,
            found.labels.masked_fill(~exist, -1),
            found.log_density.masked_fill(~exist, -torch.inf),
            exist.sum(),
        ]
        if "side_std" in self.output_names:
            outputs.append(found.side_std.masked_fill(~exist[:, None], 0))
        return tuple(outputs)

    @torch.no_grad()
    def predicted(self, image: Tensor) -> tuple[Tensor, ...]:
        """The same from ``model.predict``, which computes in shapes of its own: what is right.

        All that it gives: more than K rows where it has more boxes.
        """
        sample = DetDataSample(metainfo=dict(img_shape=self.image_size, ori_shape=self.image_size))
        data = self.model.data_preprocessor(dict(inputs=[image[0]], data_samples=[sample]))
        (sample,) = self.model.predict(data["inputs"], data["data_samples"], rescale=False)
        found = sample.pred_instances
        number = len(found)

        def rows(values: Tensor, filling: float) -> Tensor:
            empty = max(self.count - number, 0)
            return torch.cat([values, values.new_full((empty, *values.shape[1:]), filling)])

        outputs = [
            rows(found.bboxes, 0),
            rows(found.scores, 0),
            rows(found.labels, -1),
            rows(found.log_density, -torch.inf),
            torch.tensor(number),
        ]
        if "side_std" in self.output_names:
            outputs.append(rows(found.side_std, 0))
        return tuple(outputs)

    def _test_cfg(self) -> dict:
        """Of the head whose NMS is the last."""
        config = self.model.detector.test_cfg
        return config["rcnn"] if isinstance(self.model.detector, TwoStageDetector) else config

    def _candidates(self, maps: tuple[Tensor, ...]) -> Candidates:
        detector, config = self.model.detector, dict(self._test_cfg())
        if self.guided is not None:
            config["score_thr"] = self.guided.score_thr
        if not isinstance(detector, TwoStageDetector):
            found = dense_candidates(detector.bbox_head, maps, self.image_size, config)
            return best(found, self.places).filled(self.count)
        first = detector.test_cfg["rpn"]
        proposals = dense_candidates(detector.rpn_head, maps, self.image_size, first)
        most = at_most(first.get("max_per_img")) or len(proposals.scores)
        proposals = by_scores(proposals, *_nms(first), most)
        found = roi_candidates(
            detector.roi_head, maps, proposals, self.image_size, config["score_thr"]
        )
        return best(found, self.places).filled(self.count)

    def _suppress(self, feats: list[Tensor], found: Candidates) -> Candidates:
        if self.guided is None:
            return by_scores(found, *_nms(self._test_cfg()), self.count)
        _, (here,) = self.model.find_modes(feats, [found.boxes], [found.labels], evaluate_only)
        return by_energy(found, here.log_density, self.guided.iou_threshold, self.count)


_BOXES = 100
"""Of a detector without a limit."""


def left_out(model: EBMDetector) -> list[str]:
    """What the model predicts and its graph does not, one phrase each."""
    parts = []
    if getattr(getattr(model.detector, "roi_head", None), "with_mask", False):
        parts.append("masks")
    if model.side_intervals is not None:
        parts.append("calibrated intervals, which depend on the size of the image's file")
    if getattr(model.refiner, "num_modes", 0):
        parts.append("further modes")
    if model.flips:
        parts.append("the mean over mirror images (flips)")
    return parts


def _check_detector(model: EBMDetector) -> None:
    detector, preprocessor = model.detector, model.data_preprocessor
    alone = "The refinement alone can be exported: --refinement-only"
    if type(preprocessor) is not DetDataPreprocessor:
        raise ValueError(
            f"model.data_preprocessor is {type(preprocessor).__name__}; exported is "
            f"DetDataPreprocessor. {alone}"
        )
    bases = (TwoStageDetector, SingleStageDetector)
    if model.flips:
        raise ValueError(
            f"model.flips is {model.flips}; exported is the refinement by the image as it is: "
            "model.flips=[]"
        )
    base = next((base for base in bases if isinstance(detector, base)), None)
    if base is None or type(detector).predict is not base.predict:
        raise ValueError(
            f"model.detector is {type(detector).__name__}; exported are detectors that predict as "
            f"mmdet's {' or '.join(each.__name__ for each in bases)} does. {alone}"
        )
    if base is SingleStageDetector:
        check_dense_head(detector.bbox_head, "model.detector.bbox_head")
        configs = {"model.detector.test_cfg": detector.test_cfg}
    else:
        check_dense_head(detector.rpn_head, "model.detector.rpn_head")
        check_roi_head(detector.roi_head, "model.detector.roi_head")
        configs = {
            f"model.detector.test_cfg.{stage}": detector.test_cfg[stage]
            for stage in ("rpn", "rcnn")
        }
    *_, last = configs  # the one that `candidates` replaces
    for name, config in configs.items():
        kind = config["nms"].get("type", "nms") if config.get("nms") else None
        if kind != "nms" and not (model.candidates is not None and name == last):
            raise ValueError(f"{name}.nms.type is {kind!r}; exported is 'nms'. {alone}")
    replaced = ("roi_head.bbox_roi_extractor.roi_layers.", "roi_head.mask_")
    for name, module in detector.named_modules():
        if type(module).__module__.startswith("mmcv.ops") and not name.startswith(replaced):
            raise ValueError(
                f"model.detector.{name} is {type(module).__name__} of mmcv.ops, an operator in C++ "
                f"of which no graph can be made. {alone}"
            )


def _nms(config: dict) -> tuple[float, bool]:
    """Threshold of the IoU, and whether classes suppress each other."""
    nms = config["nms"]
    return nms.get("iou_threshold", nms.get("iou_thr")), nms.get("class_agnostic", False)


def _preprocess(preprocessor: DetDataPreprocessor, image: Tensor) -> Tensor:
    """The image (1, 3, H, W) normalised and padded, as mmdet does it."""
    if preprocessor._channel_conversion:
        image = image[:, [2, 1, 0]]
    if preprocessor._enable_normalize:
        image = (image - preprocessor.mean) / preprocessor.std
    (height, width), divisor = image.shape[-2:], preprocessor.pad_size_divisor
    below, right = -height % divisor, -width % divisor
    return functional.pad(image, (0, right, 0, below), value=float(preprocessor.pad_value))
