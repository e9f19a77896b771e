"""Inference in one line: images in, refined boxes, pictures and a COCO file out."""

from __future__ import annotations

import copy
import glob
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmdet.structures import DetDataSample, SampleList
from mmengine.config import Config

from ..energy import Refiner, evaluate_only
from ..files import write_bytes, write_json
from ..models.detectors import EBMDetector
from ..visualization.refined_boxes import draw_refined_boxes
from .coco_results import CocoIds, coco_dataset, coco_results
from .inspection import classes_of
from .prediction_folder import IMAGE_ENDINGS

__all__ = ["EBMInferencer", "list_images"]

FIELDS = (
    "detected_bboxes",
    "log_density",
    "accepted_steps",
    "box_std",
    "side_std",
    "ess",
    "log_prob",
)
"""Further fields of ``pred_instances`` that predictions have, if the model gives them."""


class EBMInferencer(DetInferencer):
    """mmdet's ``DetInferencer`` for detectors with an energy head; others work as they do there.

        EBMInferencer('my_detector_ebm.py', 'best.pth')('images/', out_dir='out')

    Args:
        model: config file, name of a model, or config.
        weights: checkpoint.
        device: ``'cpu'``, ``'cuda:0'``; by default a GPU if there is one.
        kwargs: further ones of ``DetInferencer``.
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
        super().__init__(model, weights, device, **kwargs)
        self._failed: dict[str, str] = {}

    def _load_weights_to_model(self, model, checkpoint, cfg) -> None:
        """As in mmdet, but names of classes that the checkpoint lacks are those of the config."""
        super()._load_weights_to_model(model, checkpoint, cfg)
        meta = (checkpoint or {}).get("meta", {})
        classes = classes_of(cfg)
        if classes and "dataset_meta" not in meta and "CLASSES" not in meta:
            model.dataset_meta["classes"] = classes

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
            out_dir: a new or empty folder. It gets ``vis/NAME.png``, boxes before and after with
                their spread, unless ``no_save_vis=True``; and ``coco.json``, a data set in COCO's
                format with a score in each annotation. Empty: nothing is written.
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
            FileExistsError: ``out_dir`` has something in it.
            ValueError: ``refine_steps`` for a model whose refiner takes no steps, or ``ann_file``
                does not list the images.
        """
        out_dir = os.fspath(out_dir)
        if out_dir and Path(out_dir).exists() and any(Path(out_dir).iterdir()):
            raise FileExistsError(f"{out_dir} is not empty; give a new folder, or empty this one")
        images = list_images(inputs)
        self._refiner(refine, refine_steps)  # before any work
        classes = self.model.dataset_meta.get("classes") or ()
        ids = None
        if ann_file is not None:
            ids = CocoIds(ann_file, classes)
            for image in images:
                ids.image(_name_of(image, 0))
        self._failed, self._sizes, self._names = {}, [], set()
        self._as_samples = kwargs.get("return_datasamples", False)
        found = super().__call__(
            images,
            batch_size=batch_size,
            out_dir=out_dir,
            refine=refine,
            refine_steps=refine_steps,
            **kwargs,
        )
        found["failed"] = self._failed
        if out_dir:
            rows = found["predictions"]
            if self._as_samples:
                rows = [self.pred2dict(sample) for sample in rows]
            if ids is None:
                write_json(Path(out_dir, "coco.json"), coco_dataset(rows, self._sizes, classes))
            else:
                image_ids = [ids.image(name) for name, _, _ in self._sizes]
                results = coco_results(rows, image_ids, ids.categories)
                write_json(Path(out_dir, "results.bbox.json"), results)
        return found

    def _inputs_to_list(self, inputs) -> list:
        return list_images(inputs)

    def _get_chunk_data(self, inputs: Iterable, chunk_size: int) -> Iterator[list]:
        """Batches of (image, data); an image that cannot be read is left out and remembered."""
        chunk = []
        for number, each in enumerate(inputs):
            path = each.get("img_path", each.get("img")) if isinstance(each, dict) else each
            try:
                data = self.pipeline(copy.deepcopy(each))
            except Exception as error:  # whatever a pipeline raises for a broken file
                reason = f"{type(error).__name__}: {error}"
                self._failed[_name_of(path, number)] = reason
                warnings.warn(f"{_name_of(path, number)} is left out: {reason}", stacklevel=2)
                continue
            height, width = data["data_samples"].ori_shape[:2]
            self._sizes.append((_name_of(path, number), width, height))
            chunk.append((path, data))
            if len(chunk) == chunk_size:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _refiner(self, refine: bool, steps: int | None) -> Refiner | None:
        """The refiner of this call; None for the model's own."""
        own = getattr(self.model, "refiner", None)
        if steps is not None:
            if not refine or not isinstance(self.model, EBMDetector):
                raise ValueError(f"refine_steps={steps} without a refinement")
            if hasattr(own, "num_steps"):
                own = copy.copy(own)
                own.num_steps = int(steps)
            elif getattr(own, "climb", None):
                own = copy.copy(own)
                own.climb = {**own.climb, "num_steps": int(steps)}
            else:
                raise ValueError(
                    f"refine_steps={steps}, but the refiner {type(own).__name__} takes no steps"
                )
            return own
        return None if refine else evaluate_only

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
        refiner = self._refiner(refine, refine_steps)
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

        Models without an energy head, and predictions with masks, are drawn by mmdet's visualizer.
        """
        ours = isinstance(self.model, EBMDetector)
        if not ours or any("masks" in sample.pred_instances for sample in preds):
            return super().visualize(
                inputs,
                preds,
                return_vis,
                show,
                wait_time,
                draw_pred,
                pred_score_thr,
                no_save_vis,
                img_out_dir,
                **kwargs,
            )
        folder = "" if no_save_vis else img_out_dir
        if not (folder or show or return_vis):
            return None
        pictures = []
        for each, sample in zip(inputs, preds):
            picture = self._picture(_read(each), sample if draw_pred else None, pred_score_thr)
            name = self._free_name(Path(_name_of(each, self.num_visualized_imgs)).stem)
            self.num_visualized_imgs += 1
            if folder:
                _, code = cv2.imencode(".png", picture[..., ::-1])
                write_bytes(Path(folder, "vis", f"{name}.png"), code.tobytes())
            if show:
                self.visualizer.show(picture, win_name=name, wait_time=wait_time)
            pictures.append(picture)
        return pictures

    def _free_name(self, stem: str) -> str:
        """The name of an image, with a number if two folders have one of this name."""
        name, number = stem, 2
        while name in self._names:
            name, number = f"{stem}_{number}", number + 1
        self._names.add(name)
        return name

    def _picture(
        self, image: np.ndarray, sample: DetDataSample | None, score_thr: float
    ) -> np.ndarray:
        found = [] if sample is None else sample.pred_instances.cpu()
        if len(found) == 0:
            return draw_refined_boxes(image, None, np.zeros((0, 4)), [])
        found = found[found.scores >= score_thr]
        classes = self.model.dataset_meta.get("classes") or ()
        names = [
            f"{classes[label] if label < len(classes) else label} {score:.2f}"
            for label, score in zip(found.labels.tolist(), found.scores.tolist())
        ]
        before, after = (found[key].numpy() for key in ("detected_bboxes", "bboxes"))
        std = found.side_std.numpy() if "side_std" in found else None
        moved = not np.array_equal(before, after)
        return draw_refined_boxes(image, before if moved else None, after, names, std)

    def pred2dict(self, data_sample: DetDataSample, pred_out_dir: str = "") -> dict:
        """As in mmdet, and with the fields of our detectors, and the scene of a ROCK model."""
        result = super().pred2dict(data_sample, "")
        found = data_sample.get("pred_instances")
        for name in FIELDS:
            if found is not None and name in found:
                result[name] = torch.as_tensor(getattr(found, name)).tolist()
        scene = data_sample.get("pred_scene")
        if scene is not None:
            result["scene"] = {name: value.tolist() for name, value in scene.items()}
        if pred_out_dir:
            stem = Path(data_sample.get("img_path") or str(self.num_predicted_imgs)).stem
            self.num_predicted_imgs += 1
            write_json(Path(pred_out_dir, "preds", f"{stem}.json"), result)
        return result


def list_images(inputs) -> list[str | np.ndarray | dict]:
    """All images of ``inputs``: see :meth:`EBMInferencer.__call__`; the order of names in folders.

    Raises:
        FileNotFoundError: there is no such path, a folder has no image, or a pattern matches none.
        TypeError: an input is of another type.
    """
    if isinstance(inputs, (list, tuple)):
        return [image for each in inputs for image in list_images(each)]
    if isinstance(inputs, (np.ndarray, dict)):
        return [inputs]
    if not isinstance(inputs, (str, os.PathLike)):
        raise TypeError(f"an input is {type(inputs).__name__}; expected a path or an array")
    name = os.fspath(inputs)
    if "://" in name or os.path.isfile(name):
        return [name]
    if os.path.isdir(name):
        found = [each.path for each in os.scandir(name) if each.is_file()]
    elif glob.has_magic(name):
        found = [path for path in glob.glob(name, recursive=True) if os.path.isfile(path)]
    else:
        raise FileNotFoundError(f"there is no image, folder or pattern {name}")
    found = sorted(path for path in found if path.lower().endswith(IMAGE_ENDINGS))
    if not found:
        raise FileNotFoundError(f"{name} has no image ({', '.join(IMAGE_ENDINGS)})")
    return found


def _name_of(image: str | np.ndarray | dict, number: int) -> str:
    """Path of an image, or a number for an array."""
    if isinstance(image, dict):
        return _name_of(image.get("img_path", image.get("img")), number)
    return image if isinstance(image, str) else f"{number:08d}"


def _read(image: str | np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    if isinstance(image, np.ndarray):
        return np.ascontiguousarray(image[..., ::-1])
    import mmcv
    import mmengine

    return mmcv.imfrombytes(mmengine.fileio.get(image), channel_order="rgb")
