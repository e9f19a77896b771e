"""Planted errors, and who finds them: f, the detector, L1 and KL-Loss heads, cleanlab, chance."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config

from ebm_mmdet.apis.auditing.annotations import Annotations, read_annotations
from ebm_mmdet.apis.auditing.calibration import evidence_against, fit_mixture
from ebm_mmdet.apis.auditing.features import AuditImages, Seen, ViewCache, over_flips
from ebm_mmdet.apis.auditing.folds import assign_folds, new_gaussian, train_head
from ebm_mmdet.apis.auditing.scoring import joined_surprise, score_image
from ebm_mmdet.apis.auditing.source import Source, image_folder, load_source, usual_size
from ebm_mmdet.apis.fitting.clock import Clock
from ebm_mmdet.apis.fitting.kl_regressor import KLRegressor
from ebm_mmdet.apis.fitting.rivals import BoxRegressor
from ebm_mmdet.apis.training_flips import flips_of
from ebm_mmdet.box_iou import box_iou
from ebm_mmdet.files import read_json, write_json
from ebm_mmdet.models.box_coding import decode_boxes

from .audit_table import measure_costs, measure_scores
from .cleanlab_scores import badloc_scores
from .planted_errors import KINDS, plant

__all__ = ["run_audit_study"]

MODES = ("unseen", "folds", "in-sample")
"""The head has learned from other images, from the other folds, or from the audited ones."""
RIVALS = ("IoU with the L1 head's box", "KL-Loss, likelihood", "KL-Loss, log-ratio")
"""Scores of heads that learn from the same batches as the unseen energy head."""
PLAIN = "unseen, without mirror images"
"""The scores of the unseen head by the image as it is alone."""
DETECTIONS_FROM = 0.3
"""Score from which a detection counts for the rival that compares with the detector."""


def run_audit_study(
    config: Path,
    checkpoint: Path,
    train_ann: Path,
    ann: Path,
    out: Path,
    images: Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    kinds: Sequence[str] = KINDS,
    modes: Sequence[str] = MODES,
    share: float = 0.2,
    iterations: int = 1500,
    folds: int = 5,
    cache_gb: float = 2.0,
    cleanlab: str | None = None,
    rivals: bool = True,
    say: Callable[[str], None] = print,
) -> dict:
    """Plant errors with every seed and rank the annotations by each score.

    Every result is kept in ``out``: the same call goes on where an interrupted one was, and calls
    with other kinds, seeds or modes share the heads that they can.

    Args:
        config: config of a detector, with a head or without; heads are trained here.
        checkpoint: its checkpoint.
        train_ann: annotations that the ``unseen`` heads learn from; they stay true.
        ann: true annotations, into which errors are planted.
        out: folder of the study.
        images: folder of the images; by default the config's.
        seeds: of errors and heads.
        kinds: of the errors, see :func:`plant`.
        modes: out of ``unseen``, ``folds``, ``in-sample``.
        share: of the annotations that get an error.
        iterations: of each head.
        folds: of the mode ``folds``.
        cache_gb: memory for features.
        cleanlab: a Python in which cleanlab is installed, or None to leave it out.
        rivals: whether an L1 head and one with KL-Loss learn too, in the mode ``unseen``.
        say: receives lines.

    Returns:
        The content of ``results.json``.

    Raises:
        FileExistsError: ``out`` has a study with other settings.
    """
    cfg = Config.fromfile(config)
    settings = dict(
        config=config.name,
        ann=ann.name,
        share=share,
        iterations=iterations,
        folds=folds,
        rivals=list(RIVALS) if rivals else [],
        flips=list(flips_of(cfg)),
    )
    stored = read_json(out / "settings.json")
    if stored not in (None, settings):
        raise FileExistsError(f"{out} has a study with other settings; name another folder")
    write_json(out / "settings.json", settings)
    true = read_json(ann)
    place = images or image_folder(cfg, [image["file_name"] for image in true["images"]])
    # A detector without a head gets the one that `audit` would give it.
    source = load_source(cfg, checkpoint, "cpu", usual_size(cfg, true, place))
    runs, folder = [], out / "_".join(kinds)
    for seed in seeds:
        path = folder / f"seed{seed}.json"
        found = read_json(path) or dict(seed=seed, scores={})
        content, planted, truth = plant(true, kinds, share, seed)
        planted_file = folder / f"seed{seed}" / "annotations.json"
        write_json(planted_file, content)
        annotations = read_annotations(planted_file, place, source.classes)
        study = _Seed(source, annotations, truth, folder / f"seed{seed}", seed, cache_gb, say)
        found["kind"] = [planted.get(row, "") for row in study.rows]
        found["image"] = study.image_of
        for mode in modes:
            if not study.names(mode) <= found["scores"].keys():
                groups = study.groups(mode, folds)
                other = read_annotations(train_ann, place, source.classes)
                heads = out / "unseen" / str(seed) if mode == "unseen" else study.folder / mode
                found["scores"] |= study.judge(mode, groups, other, iterations, heads, rivals)
                found["fixed"] = {**found.get("fixed", {}), mode: study.fixed}
                write_json(path, found)
        if "detector" not in found["scores"]:
            found["scores"] |= study.without_heads()
            write_json(path, found)
        if cleanlab and "cleanlab" not in found["scores"]:
            found["scores"]["cleanlab"] = study.cleanlab(cleanlab)
            write_json(path, found)
        runs.append(found)
    measured = [measure_scores(run) for run in runs]
    costs = measure_costs(runs, modes)
    report = dict(settings=dict(settings, kinds=list(kinds)), runs=measured, costs=costs)
    write_json(folder / "results.json", report)
    return report


class _Seed:
    """One seed: planted errors, the detector's features, and all scores."""

    def __init__(
        self,
        source: Source,
        annotations: Annotations,
        truth: Mapping[int, list[float]],
        folder: Path,
        seed: int,
        cache_gb: float,
        say: Callable[[str], None],
    ) -> None:
        self.source, self.annotations, self.folder = source, annotations, folder
        self.seed, self.cache_bytes, self.say = seed, cache_gb * 2**30, say
        self.images = AuditImages(source.cfg, annotations.images)
        self.flips = flips_of(source.cfg)
        self.clock = Clock(folder / "clock.json", 1e9)
        self.rows = [row for each in annotations.images for row in each.rows.tolist()]
        self.image_of = [k for k, each in enumerate(annotations.images) for _ in each.rows]
        self.truth = np.array([truth[row] for row in self.rows])
        self._seen: dict[int, Seen] = {}
        self.fixed: dict = {}

    def see(self, index: int) -> Seen:
        """What the detector makes of an image; kept, since every mode asks for it."""
        if index not in self._seen:
            self._seen[index] = self.images.see(self.source.model, index, self.flips)
        return self._seen[index]

    def names(self, mode: str) -> set[str]:
        """Some of the scores of a mode; an earlier version has left out the Gaussian alone."""
        parts = ["audit", "f", *(["Gaussian"] if new_gaussian(self.source) else [])]
        return {f"{part}, {mode}" for part in parts}

    def groups(self, mode: str, folds: int) -> list[list[int]]:
        """Images that share a head."""
        everything = list(range(len(self.annotations.images)))
        if mode != "folds":
            return [everything]
        return assign_folds(self.annotations.images, folds, self.seed)

    def judge(
        self,
        mode: str,
        groups: Sequence[Sequence[int]],
        train: Annotations,
        iterations: int,
        folder: Path,
        with_rivals: bool = True,
    ) -> dict[str, list[float]]:
        """Train the heads of a mode in a folder, and score all annotations by them."""
        views = functools.cache(
            lambda: self._views(train if mode == "unseen" else self.annotations, mode)
        )
        settings = self.source.cfg.model.energy_head
        compared = with_rivals and mode == "unseen"
        rivals = {"l1": BoxRegressor, "kl": KLRegressor} if compared else {}
        results: dict[int, dict] = {}
        plain: dict[int, dict] = {}
        others: dict[int, list[np.ndarray]] = {}
        for k, group in enumerate(groups):
            training = train_head(
                self.source,
                views,
                group if mode == "folds" else [],
                folder / f"{k}.pth",
                iterations,
                lambda: 1e9,
                self.clock,
                self.seed + k,
                others=lambda: {
                    **new_gaussian(self.source),
                    **{name: build(settings) for name, build in rivals.items()},
                },
            )
            self.say(f"  head {k}: {training.iteration} iterations in {training.seconds:.0f} s")
            heads = {name: head.eval() for name, head in training.heads.items()}
            for index in group:
                seen = self.see(index)
                ask = functools.partial(
                    score_image,
                    self.source.model,
                    heads["energy"],
                    self.images,
                    index,
                    gaussian=heads.get("gaussian"),
                )
                results[index] = ask(seen=seen)
                if mode == "unseen":
                    plain[index] = ask(seen=seen._replace(flips=("",), mirrored=()))
                if rivals:
                    here = self.annotations.images[index].boxes
                    others[index] = _rival_scores(heads["l1"], heads["kl"], here, seen)
        order = sorted(results)
        boxes = np.concatenate([self.annotations.images[i].boxes for i in order])
        proposal = _joined(results[i]["proposal"] for i in order)
        ratio, surprise, evidence = _parts_and_evidence([results[i] for i in order])
        probability = fit_mixture(evidence).probability(evidence)
        before, after = box_iou(boxes, self.truth), box_iou(proposal, self.truth)
        self.fixed = dict(before=np.round(before, 4).tolist(), after=np.round(after, 4).tolist())
        scores = {
            f"audit, {mode}": evidence.tolist(),
            f"f, {mode}": ratio.tolist(),
            **({} if surprise is None else {f"Gaussian, {mode}": surprise.tolist()}),
            f"probability, {mode}": probability.tolist(),
            f"IoU with the mode, {mode}": (1 - box_iou(boxes, proposal)).tolist(),
        }
        if plain:
            ratio, _, evidence = _parts_and_evidence([plain[i] for i in order])
            scores |= {PLAIN: evidence.tolist(), f"f, {PLAIN}": ratio.tolist()}
        if rivals:
            columns = zip(*(others[i] for i in order))
            scores |= {name: np.concatenate(c).tolist() for name, c in zip(RIVALS, columns)}
        return scores

    def _views(self, learned: Annotations, mode: str) -> ViewCache:
        order = np.random.default_rng(self.seed).permutation(len(learned.images))
        views = ViewCache(
            self.source.model,
            AuditImages(self.source.cfg, learned.images),
            [int(i) for i in order if len(learned.images[i].rows)],
            flips_of(self.source.cfg),
            self.cache_bytes,
        )
        self.say(f"seed {self.seed}, {mode}: {len(views.views)} views of {len(views)} images")
        return views

    def without_heads(self) -> dict[str, list[float]]:
        """The scores of the detector, and of chance."""
        scores: list[np.ndarray] = []
        for index, each in enumerate(self.annotations.images):
            found, confidence, labels = self._detections(index)
            usual = confidence >= DETECTIONS_FROM
            same = (each.labels[:, None] == labels[None]) & usual
            iou = box_iou(each.boxes[:, None], found[None]) if len(found) else np.zeros(same.shape)
            scores.append(1 - np.where(same, iou, 0).max(1, initial=0.0))
        chance = np.random.default_rng(self.seed).random(len(self.rows))
        return {"detector": np.concatenate(scores).tolist(), "random": chance.tolist()}

    def _detections(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seen = self.see(index)
        boxes = seen.boxes.double().numpy() / seen.scale.double().numpy()
        return boxes, seen.scores.numpy(), seen.labels.numpy()

    def cleanlab(self, python: str) -> list[float]:
        """The badloc scores of cleanlab; larger is worse here."""
        found = [self._detections(index) for index in range(len(self.annotations.images))]
        return badloc_scores(python, self.annotations, found, len(self.source.classes))


@torch.no_grad()
def _rival_scores(
    l1: BoxRegressor, kl: KLRegressor, boxes: np.ndarray, seen: Seen
) -> list[np.ndarray]:
    """``RIVALS`` of the annotations (n, 4) of an image, (n,) each; larger is worse."""
    given = torch.from_numpy(boxes).float() * seen.scale

    def away(*asked) -> torch.Tensor:
        _, there, _ = asked
        moved = decode_boxes(l1.offsets(*asked), there)
        return torch.from_numpy(1 - box_iou(there.double().numpy(), moved.double().numpy()))

    def evidence(*asked) -> torch.Tensor:
        return torch.stack(kl.evidence(*asked), 1)

    likelihood, ratio = over_flips(seen, given, kl, evidence).numpy().T
    return [over_flips(seen, given, l1, away).numpy(), likelihood, ratio]


def _parts_and_evidence(
    results: Sequence[dict],
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Log-ratio, surprise (None without a Gaussian) and evidence (n,) of several images."""
    ratio = np.concatenate([each["log_ratio"] for each in results])
    surprise = joined_surprise(results)
    return ratio, surprise, evidence_against(ratio, surprise, np.ones(len(ratio), bool))


def _joined(parts) -> np.ndarray:
    return np.concatenate([np.asarray(part, float).reshape(-1, 4) for part in parts])
