"""Inference in one line: images in, refined boxes, pictures and a COCO file out."""

from __future__ import annotations

import copy
import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmdet.structures import DetDataSample, SampleList
from mmengine.config import Config

from ..engine import usable_device
from ..engine.stored_intervals import attach_stored_intervals, model_digest
from ..files import file_digest, write_bytes, write_json
from ..models.detectors import EBMDetector
from ..visualization.predictions import draw_prediction
from .coco_results import CocoIds
from .image_list import image_digest, image_name, list_images, read_image
from .inference_run import InferenceRun
from .inspection import classes_of
from .plain_fields import plain_fields
from .refiner_of_call import refiner_of_call, uses_head
from .trained_detector import (
    dataset_meta,
    file_pipeline,
    fit_weights,
    refuse_other_models,
    refuse_untrained_head,
)

__all__ = ["EBMInferencer"]


class EBMInferencer(DetInferencer):
    """mmdet's ``DetInferencer`` for detectors with an energy head; others work as they do there.

        EBMInferencer('my_detector_ebm.py', 'best.pth')('images/', out_dir='out')

    Args:
        model: config file, name of a model, or config.
        weights: checkpoint.
        device: ``'cpu'``, ``'cuda:0'``; by default a GPU if there is one.
        kwargs: further ones of ``DetInferencer``.

    Raises:
        ValueError: there is no such device, or the config's model is absent or no detector.
        FileNotFoundError: there is no such checkpoint.
        CheckpointError: the checkpoint cannot be read, lacks weights of the model, or has others.
    """

    forward_kwargs = {"refine", "refine_steps"}  # noqa: RUF012  (mmengine's metaclass reads it)

    def __init__(
        self,
        model: str | os.PathLike | Config | None = None,
        weights: str | os.PathLike | None = None,
        device: str | None = None,
        **kwargs,
    ) -> None:
        model = os.fspath(model) if isinstance(model, os.PathLike) else model
        weights = os.fspath(weights) if isinstance(weights, os.PathLike) else weights
        local = weights is not None and os.path.isfile(weights)
        # Of the file as it is now, when it is loaded: a training may write another one.
        self._weights = file_digest(weights) if local else weights
        super().__init__(model, weights, usable_device(device), **kwargs)

    def _init_model(self, cfg, weights, device="cpu"):
        if "model" not in cfg:
            raise ValueError(
                f"{cfg.filename or 'the config'} has no model; give a detector's config"
            )
        refuse_other_models(cfg)
        self._digest = model_digest(cfg)
        self._checkpoint = weights
        return super()._init_model(cfg, weights, device)

    def _load_weights_to_model(self, model, checkpoint, cfg) -> None:
        """As in mmdet, but all weights have to fit, and what the meta lacks is of the config."""
        self._tensors = None
        if checkpoint is not None:
            fit_weights(model, checkpoint, self._checkpoint)
            self._tensors = tuple(checkpoint.get("state_dict", checkpoint))
            # mmdet loads what fits, and prints the rest: it gets what is in the model already.
            checkpoint = dict(meta=checkpoint.get("meta") or {}, state_dict=model.state_dict())
        known, meta = dataset_meta(cfg), (checkpoint or {}).get("meta", {})
        if self.palette == "none":  # mmdet would build the data set, which may make its images
            stored = meta.get("dataset_meta", {}).get("palette")
            self.palette = known.get("palette") or stored or "random"
        super()._load_weights_to_model(model, checkpoint, cfg)
        attach_stored_intervals(model, checkpoint or {}, self._digest or model_digest(cfg))
        classes = classes_of(cfg) or known.get("classes")
        if classes and "dataset_meta" not in meta and "CLASSES" not in meta:
            model.dataset_meta["classes"] = classes
        model.dataset_meta = {**known, **model.dataset_meta}

    def __call__(
        self,
        inputs,
        batch_size: int = 1,
        out_dir: str | os.PathLike = "",
        refine: bool = True,
        refine_steps: int | None = None,
        ann_file: str | os.PathLike | None = None,
        **kwargs,
    ) -> dict:
        """Detect and refine.

        Args:
            inputs: an image (H, W, 3) uint8 BGR, the path of one, of a folder of images, or a
                pattern with ``*``; or a list of these.
            batch_size: images per run of the network.
            out_dir: a new or empty folder, or that of the same call that was interrupted or left
                images out, which then goes on with these, and with images that are others now. It
                gets ``vis/NAME.png``, boxes before and after with their spread,
                unless ``no_save_vis=True``; ``coco.json``, a data set in COCO's format with a
                score in each annotation; and scene, depth and normals of a model that predicts
                them, as ``scene/NAME.txt``, ``depth/NAME.{npy,png}``, ``normals/NAME.{npy,png}``.
                Empty: nothing is written.
            refine: whether boxes are refined; without, ``log_density`` is given for the detector's.
            refine_steps: steps instead of those of the config.
            ann_file: a COCO file that lists the images: the results then have its ids and are
                ``results.bbox.json``, in the format of ``COCO.loadRes``.
            kwargs: those of ``DetInferencer``, such as ``pred_score_thr``, ``return_vis``,
                ``no_save_pred=False``, ``return_datasamples``.

        Returns:
            ``predictions``: for each image ``bboxes`` (xyxy pixels), ``scores``, ``labels``,
            ``masks``, ``detected_bboxes`` (before refinement), and the other fields of
            :class:`~ebm_mmdet.EBMDetector`, or data samples; ``visualization``: pictures or None;
            ``failed``: a reason for each image that could not be read, which is left out.

        Raises:
            FileNotFoundError: a path or pattern has no image.
            FileExistsError: ``out_dir`` has something else in it.
            NotADirectoryError, PermissionError: ``out_dir`` cannot be made or written.
            TypeError: an input is no image, or an array of another shape or dtype.
            ValueError: ``batch_size`` is no whole number >= 1, ``refine_steps`` none >= 0 or for a
                model whose refiner takes no steps, or ``ann_file`` does not list the images, or
                has one for two of them.
            CheckpointError: boxes would be moved or chosen by an energy head that the checkpoint
                does not have.
        """
        out_dir = os.fspath(out_dir)
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; expected a whole number, 1 or more")
        images = list_images(inputs)
        refiner_of_call(self.model, refine, refine_steps)  # before any work
        if self._tensors is not None and uses_head(self.model, refine):
            refuse_untrained_head(self._tensors, self._checkpoint)
        classes = self.model.dataset_meta.get("classes") or ()
        ids = None
        if ann_file is not None:
            ids = CocoIds(ann_file, classes)
            ids.check([image_name(image, number) for number, image in enumerate(images)])
        run = InferenceRun(images)
        if out_dir:
            asked = dict(refine=refine, refine_steps=refine_steps, ann_file=ann_file, **kwargs)
            whole = kwargs.get("return_datasamples", False) or kwargs.get("return_vis", False)
            run.open(out_dir, self._settings(asked), only_whole=whole)
        self._run = run
        found = super().__call__(
            [image for _, image in run.remaining],
            batch_size=batch_size,
            out_dir=out_dir,
            refine=refine,
            refine_steps=refine_steps,
            **kwargs,
        )
        found["failed"] = run.failed
        if out_dir:
            rows = run.finish(classes, ids)
            if not kwargs.get("return_datasamples", False):
                found["predictions"] = rows
        return found

    def _settings(self, asked: dict) -> dict:
        """What tells a call that may go on from another one; JSON types."""
        # Not the whole config: mmengine renames its visualizer in every process.
        config = repr((self.cfg.model, file_pipeline(self.cfg)))
        ann_file = asked.get("ann_file")
        return dict(
            config=hashlib.sha256(config.encode()).hexdigest(),
            weights=self._weights,
            annotations=None if ann_file is None else file_digest(ann_file),
            **{name: None if value is None else str(value) for name, value in asked.items()},
        )

    def _init_pipeline(self, cfg: Config):
        """As in mmdet, and for data sets that make their images too."""
        cfg = copy.deepcopy(cfg)
        cfg.test_dataloader = dict(dataset=dict(pipeline=file_pipeline(cfg)))
        return super()._init_pipeline(cfg)

    def _inputs_to_list(self, inputs) -> list:
        return list_images(inputs)

    def _get_chunk_data(self, inputs: Iterable, chunk_size: int) -> Iterator[list]:
        """Batches of (image, data); an image that cannot be read is left out and remembered."""
        chunk = []
        for (stem, name, image), each in zip(self._run.names(), inputs):
            path = each.get("img_path", each.get("img")) if isinstance(each, dict) else each
            item = each if isinstance(each, dict) else _as_item(each)
            try:
                # First: of no later content than what is predicted.
                digest = image_digest(image) if self._run.folder is not None else None
                # Without annotations, which some pipelines would load.
                data = self.pipeline({"instances": [], **copy.deepcopy(item)})
            except Exception as error:  # whatever a pipeline raises for a broken file
                reason = f"{type(error).__name__}: {error}"
                self._run.failed[name] = reason
                warnings.warn(f"{name} is left out: {reason}", stacklevel=2)
                continue
            height, width = data["data_samples"].ori_shape[:2]
            record = dict(file=name, width=int(width), height=int(height), digest=digest)
            self._run.expected.append((stem, record))
            chunk.append((path, data))
            if len(chunk) == chunk_size:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    @torch.no_grad()
    def forward(
        self, inputs: dict, refine: bool = True, refine_steps: int | None = None, **kwargs
    ) -> SampleList:
        """Predict a batch; ``detected_bboxes`` (n, 4) are added, the boxes before refinement."""
        model = self.model
        if not isinstance(model, EBMDetector):
            return super().forward(inputs, **kwargs)
        data = model.data_preprocessor(inputs, False)
        feats, samples, masks = model.detect(data["inputs"], data["data_samples"], rescale=True)
        for sample in samples:
            sample.pred_instances.detected_bboxes = sample.pred_instances.bboxes.clone()
        refiner = refiner_of_call(model, refine, refine_steps)
        return model.move(feats, samples, True, refiner, masks if refine else None)

    def visualize(
        self,
        inputs: Sequence,
        preds: SampleList,
        return_vis: bool = False,
        show: bool = False,
        wait_time: int = 0,
        draw_pred: bool = True,
        pred_score_thr: float = 0.3,
        no_save_vis: bool = False,
        img_out_dir: str = "",
        **kwargs,
    ) -> list[np.ndarray] | None:
        """Pictures (h, w, 3) RGB with the boxes before and after; also written and shown if asked.

        Models without an energy head, and predictions with masks, depth or normals, are drawn by
        the config's visualizer.
        """
        folder = "" if no_save_vis else img_out_dir
        if self._run.folder is not None:
            self._run.folder.claim()  # the first batch is predicted
        if not (folder or show or return_vis):
            return None
        classes, pictures = self.model.dataset_meta.get("classes") or (), []
        for each, sample, (name, _) in zip(inputs, preds, self._run.expected):
            sample = sample.cpu() if draw_pred else DetDataSample(metainfo=sample.metainfo)
            picture = draw_prediction(
                self.visualizer, name, read_image(each), sample, classes, pred_score_thr
            )
            if folder:
                _, code = cv2.imencode(".png", picture[..., ::-1])
                write_bytes(Path(folder, "vis", f"{name}.png"), code.tobytes())
            if show:
                self.visualizer.show(picture, win_name=name, wait_time=wait_time)
            pictures.append(picture)
        return pictures

    def postprocess(
        self,
        preds: SampleList,
        visualization: list[np.ndarray] | None = None,
        return_datasamples: bool = False,
        print_result: bool = False,
        no_save_pred: bool = True,
        pred_out_dir: str = "",
        **kwargs,
    ) -> dict:
        """As in mmdet; files of predictions have the names of the pictures."""
        result = super().postprocess(
            preds, visualization, return_datasamples, print_result, no_save_pred=True
        )
        rows, folder = result["predictions"], self._run.folder
        if return_datasamples and folder is not None:
            rows = [self.pred2dict(sample) for sample in preds]
        for row, sample, (stem, record) in zip(rows, preds, self._run.take(len(preds))):
            if folder is not None:
                found = {key: row[key] for key in row if key != "panoptic_seg"}  # an array
                if not no_save_pred:
                    write_json(Path(pred_out_dir, "preds", f"{stem}.json"), found)
                self._run.records[stem] = dict(record, found=found)
                folder.write(stem, sample, self.model.dataset_meta, self._run.records[stem])
        return result

    def pred2dict(self, data_sample: DetDataSample, pred_out_dir: str = "") -> dict:
        """As in mmdet, and with the fields of our detectors, and the scene of a ROCK model."""
        result = super().pred2dict(data_sample, pred_out_dir)
        return {**result, **plain_fields(data_sample)}


def _as_item(image: str | np.ndarray) -> dict:
    return {"img" if isinstance(image, np.ndarray) else "img_path": image}
