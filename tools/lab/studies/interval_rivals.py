"""One detector, and what heads on its features make of its boxes and of their uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import nn

from ebm_mmdet.apis.auditing.annotations import read_annotations
from ebm_mmdet.apis.auditing.features import AuditImages, ViewCache
from ebm_mmdet.apis.auditing.folds import train_head
from ebm_mmdet.apis.auditing.source import Source, image_folder, load_source
from ebm_mmdet.apis.fitting.clock import Clock
from ebm_mmdet.apis.fitting.kl_regressor import KLRegressor
from ebm_mmdet.apis.residuals import matched_residuals
from ebm_mmdet.apis.training_flips import flips_of
from ebm_mmdet.datasets import CheckedCOCO
from ebm_mmdet.energy import fit_residual_std
from ebm_mmdet.files import read_json, write_json

from .rivals import GaussianStep, learned_proposal

__all__ = ["Rivals", "models_with_heads"]

RESIDUAL_IMAGES = 200
SAMPLES, RESAMPLED = 64, 64


@dataclass(frozen=True)
class Rivals:
    """How the heads of an interval study are trained."""

    folder: Path
    """Of the trained heads; the same call goes on where an interrupted one was."""
    train_ann: Path
    """Annotations that they learn from, in COCO's format."""
    images: Path | None = None
    """Folder of the images; by default the config's."""
    iterations: int = 600
    seed: int = 0
    cache_gb: float = 2.0


def models_with_heads(
    cfg: Config, checkpoint: str | Path, rivals: Rivals, say: Callable[[str], None] = print
) -> Iterator[tuple[str, nn.Module]]:
    """The detector, and the same detector with each head, all of which learn from the same batches.

    - ``detector``: its own boxes.
    - ``energy head``: the config's head and refiner, and the head with 32 samples around the
      detection (``ImportanceMeanRefiner``).
    - ``KL-Loss head``: the mean of a Gaussian of each side (:class:`.KLRegressor`).
    - ``learned proposal``: :func:`.rivals.learned_proposal` and 64 samples of it.

    Args:
        cfg: config of a detector, with an energy head or without; its head is trained anew.
        checkpoint: its checkpoint.
        rivals: the training.
        say: receives lines.

    Yields:
        Name and model in eval mode; the model is the same object each time, changed in between.

    Raises:
        FileExistsError: the folder has heads of another training.
        ValueError: no detection on the training images matches an object.
    """
    settings = dict(train_ann=rivals.train_ann.name, iterations=rivals.iterations, seed=rivals.seed)
    stored = read_json(rivals.folder / "settings.json")
    if stored not in (None, settings):
        raise FileExistsError(
            f"{rivals.folder} has heads that were trained with {stored}, not with {settings}; "
            "name another folder"
        )
    write_json(rivals.folder / "settings.json", settings)
    source = load_source(cfg, checkpoint, "cpu")
    model, head_cfg = source.model, source.cfg.model.energy_head
    std = _residual_std(source, rivals, say)
    heads = _train(source, rivals, std, say)
    refiner, samples = source.cfg.model.refiner, dict(num_samples=SAMPLES, seed=rivals.seed)
    around = dict(type="ImportanceMeanRefiner", prior=dict(std=std, scale=1.0), num_samples=32)
    proposal = dict(type="ProposalRefiner", num_resampled=RESAMPLED, **samples)
    for name, head, built in (
        ("detector", heads["energy"], None),
        ("energy head", heads["energy"], TASK_UTILS.build(refiner)),
        ("energy head, 32 samples", heads["energy"], TASK_UTILS.build(around)),
        ("KL-Loss head", heads["kl"], GaussianStep(heads["kl"])),
        ("learned proposal", heads["proposal"], TASK_UTILS.build(proposal)),
    ):
        model.energy_head, model.refiner = head.eval(), built
        yield name, model
    model.energy_head = MODELS.build(head_cfg)  # not one of a rival


def _train(
    source: Source, rivals: Rivals, std: list[float], say: Callable[[str], None]
) -> dict[str, nn.Module]:
    settings = source.cfg.model.energy_head
    annotations = _annotations(source, rivals)

    def views() -> ViewCache:
        order = np.random.default_rng(rivals.seed).permutation(len(annotations.images))
        order = [int(i) for i in order if len(annotations.images[i].rows)]
        images = AuditImages(source.cfg, annotations.images)
        flips, room = flips_of(source.cfg), rivals.cache_gb * 2**30
        return ViewCache(source.model, images, order, flips, room)

    def others() -> dict[str, nn.Module]:
        proposal = MODELS.build(learned_proposal(settings, std))
        return dict(kl=KLRegressor(settings), proposal=proposal)

    clock = Clock(rivals.folder / "clock.json", 1e9)
    training = train_head(
        source,
        views,
        [],
        rivals.folder / "heads.pth",
        rivals.iterations,
        lambda: 1e9,
        clock,
        rivals.seed,
        others=others,
    )
    say(f"three heads: {training.iteration} iterations in {training.seconds:.0f} s")
    return training.heads


def _annotations(source: Source, rivals: Rivals):
    names = [image["file_name"] for image in read_json(rivals.train_ann)["images"]]
    place = rivals.images or image_folder(source.cfg, names)
    return read_annotations(rivals.train_ann, place, source.classes)


def _residual_std(source: Source, rivals: Rivals, say: Callable[[str], None]) -> list[float]:
    """Spread of the detector's errors on training images, in encoded coordinates."""
    path = rivals.folder / "residuals.json"
    if (stored := read_json(path)) is None:
        annotations = _annotations(source, rivals)
        images, samples = AuditImages(source.cfg, annotations.images), []
        for index, each in enumerate(annotations.images[:RESIDUAL_IMAGES]):
            seen = images.see(source.model, index)
            sample = DetDataSample(metainfo=dict(img_id=each.image.id))
            sample.pred_instances = InstanceData(
                bboxes=seen.boxes / seen.scale, scores=seen.scores, labels=seen.labels
            )
            samples.append(sample)
        truth = CheckedCOCO(str(rivals.train_ann))
        residuals = matched_residuals(truth, samples, annotations.category_ids)
        if len(residuals) < 2:
            raise ValueError(
                f"{len(residuals)} detections of a score of 0.3 or more match an object of "
                f"{rivals.train_ann}; a learned proposal needs to know the detector's errors"
            )
        stored = dict(std=fit_residual_std(residuals, robust=None).tolist(), boxes=len(residuals))
        write_json(path, stored)
    say(f"the detector's residuals on training images: {stored}")
    return stored["std"]
