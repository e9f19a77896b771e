"""From an annotation file to a list of its doubtful boxes, within a time."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from ...engine import usable_device
from ...files import file_digest, read_json, write_json
from ..box_file import check_lists
from ..fitting.clock import Clock
from ..fitting.folder import check_folder, claim_folder, describe_inputs, held
from ..fitting.kl_regressor import KLRegressor
from ..fitting.progress import Progress
from ..trained_detector import read_config
from ..training_flips import flips_of
from .annotations import PARTS, Annotations, read_annotations
from .exports import write_exports
from .features import AuditImages, ViewCache
from .findings import Findings, find
from .folds import assign_folds, new_gaussian, train_head
from .page import write_page
from .scoring import Scores, score_image
from .source import Source, image_folder, load_source, usual_size, without_classes

__all__ = ["audit"]

GB = 2**30
MAX_ITERS = 1500
"""Iterations of a fold's head; more change the ranking little."""


def audit(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike,
    ann_file: str | os.PathLike,
    out_dir: str | os.PathLike,
    images: str | os.PathLike | None = None,
    folds: int = 5,
    minutes: float = 30.0,
    cache_gb: float = 4.0,
    threshold: float = 0.5,
    max_iters: int = MAX_ITERS,
    device: str | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
    flips: bool = True,
    class_blind: bool = False,
    enlarge: int = 1,
) -> dict:
    """Look for annotations that are badly located, missing, or about nothing.

    The folder gets ``index.html``, a page to decide on them, and the files of
    :func:`~.exports.write_exports`. The same call goes on where an interrupted one was, and one
    with more ``minutes`` where the time had run out.

    Args:
        config: config of a detector, with an energy head (as ``fit`` leaves it) or without.
        checkpoint: its checkpoint.
        ann_file: annotation file in COCO's format.
        out_dir: a new folder, or that of an interrupted call.
        images: folder of the images; by default the one of the config's data sets that has them.
        folds: the images are dealt out to so many parts, and each is judged by an energy head that
            learned from the others. 0: one head judges all, that of the checkpoint if it has one.
            That takes a fraction of the time. It is right for annotations that the head has not
            learned from; those that it has, it judges too kindly.
        minutes: time for everything from here on.
        cache_gb: memory for features, in GB.
        threshold: probability from which a box counts as flagged.
        max_iters: most iterations of each head.
        device: ``'cpu'``, ``'cuda:0'``; by default a GPU if there is one.
        seed: of folds and training.
        say: receives lines.
        flips: judge by the mean over an image and its mirror images, those of the ``RandomFlip`` of
            the config's training pipeline. Scoring takes so many times as long.
        class_blind: for annotations whose categories are not the detector's classes: one f for all
            of them, and detections of any class confirm an annotation. Missing objects are listed
            if the file has one category, which is then theirs.
        enlarge: factor by which images are enlarged for the heads, if the config has none of its
            own.

    Returns:
        ``annotations``, ``audited``, ``flagged``, ``share_bad``, ``missing``, ``superfluous``,
        ``complete``, ``page``.

    Raises:
        ValueError: a setting is out of range, or the data or the detector cannot be used.
        FileNotFoundError: there is no such file.
        FileExistsError: ``out_dir`` has other content, or an audit with other settings or images.
        CheckpointError: the checkpoint does not fit the detector.
    """
    for name, value in dict(minutes=minutes, cache_gb=cache_gb, max_iters=max_iters).items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value}; give a positive number")
    if folds < 0 or folds == 1:
        raise ValueError(f"folds={folds}; give 2 or more, or 0 for one head that judges all")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold}; give a probability between 0 and 1")
    usable_device(device)
    config, ann_file, folder = os.fspath(config), Path(ann_file), Path(out_dir)
    cfg = read_config(config)
    if not ann_file.is_file():
        raise FileNotFoundError(f"there is no annotation file {ann_file}")
    settings = dict(
        annotations=file_digest(ann_file),
        folds=folds,
        max_iters=max_iters,
        seed=seed,
        evidence="log-ratio and surprise",
        flips=list(flips_of(cfg)) if flips else [""],
        **(dict(class_blind=True) if class_blind else {}),
        **(dict(enlarge=enlarge) if enlarge != 1 else {}),
    )
    wanted = describe_inputs(cfg, Path(checkpoint), settings)
    check_folder(folder, wanted, "audit", "--out")
    content = read_json(ann_file)
    check_lists(content, ann_file, PARTS)
    names = [str(each.get("file_name")) for each in content["images"] if isinstance(each, Mapping)]
    if not names:
        raise ValueError(f"{ann_file} lists no image, so that nothing can be audited")
    place = Path(images) if images is not None else image_folder(cfg, names)
    source = load_source(cfg, checkpoint, device, usual_size(cfg, content, place), enlarge)
    if class_blind:
        without_classes(source, folds)
    annotations = read_annotations(ann_file, place, source.classes, class_blind=class_blind)
    parts = assign_folds(annotations.images, folds, seed) if folds else None
    resumed = claim_folder(folder, wanted, "audit", "--out")
    with held(folder, "--out"):
        _keep_images(folder / "images.json", annotations)
        clock = Clock(folder / "clock.json", 60 * minutes)
        say(f"going on in {folder}" if resumed else f"working in {folder}")
        for line in annotations.complaints.lines():
            say(f"not audited: {line}")
        views = settings["flips"]
        cache_bytes = cache_gb * GB
        seen = AuditImages(source.cfg, annotations.images, class_blind)
        steps = _Steps(
            source, annotations, seen, folder, clock, seed, max_iters, cache_bytes, views, say
        )
        results, complete = steps.run(parts)
        found = find(annotations, results)
        key = hashlib.sha256(repr(sorted(wanted.items())).encode()).hexdigest()[:16]
        return steps.leave(found, results, complete, threshold, ann_file, folds, key)


def _keep_images(path: Path, annotations: Annotations) -> None:
    """Note which images are audited, or check that they are those of the call that began.

    Folds and results are by an image's position among those that can be read.

    Raises:
        FileExistsError: an image has come or gone, or its file has changed.
    """
    listed = [
        [repr(each.image.id), each.image.path.stat().st_size, len(each.rows)]
        for each in annotations.images
    ]
    stored = read_json(path)
    if stored is None:
        write_json(path, listed)
        return
    if stored == listed:
        return
    before, now = ({each[0]: each for each in some} for some in (stored, listed))
    differ = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    first = differ[0]
    change = "has changed" if first in before and first in now else "can be read"
    change = change if first in now else "cannot be read any more"
    raise FileExistsError(
        f"{path.parent} has an audit of other images: {len(differ)} differ, the first is {first}, "
        f"which {change}. Folds and results there are of the images as they were; give a new --out"
    )


class _Steps:
    """The steps of one call of :func:`audit`."""

    def __init__(
        self,
        source: Source,
        annotations: Annotations,
        images: AuditImages,
        folder: Path,
        clock: Clock,
        seed: int,
        max_iters: int,
        cache_bytes: float,
        flips: Sequence[str],
        say: Callable[[str], None],
    ) -> None:
        self.flips = flips
        self.source, self.annotations, self.folder = source, annotations, folder
        self.clock, self.seed, self.max_iters, self.say = clock, seed, max_iters, say
        self.cache_bytes = cache_bytes
        self.images = images
        self.scores = Scores(folder / "scores")
        self.iterations: dict[int, int] = {}
        """Of the heads that this call has trained or found."""

    def run(self, parts: list[list[int]] | None) -> tuple[dict[int, dict], bool]:
        """Train and score; returns the results and whether all images are scored."""
        everything = list(range(len(self.annotations.images)))
        rng = np.random.default_rng(self.seed)
        if parts is None and self.source.has_head:
            self.say(
                f"{self.annotations.count} annotations, judged by the head of the checkpoint. If "
                "it has learned from them, it judges them too kindly: --folds 5"
            )
            return self._score([(self.source.model.energy_head, None, everything)], rng)
        groups = parts if parts is not None else [everything]
        todo = [
            k for k, part in enumerate(groups) if any(i not in self.scores.results for i in part)
        ]
        if not todo:
            self.say("scored already")
            return self.scores.results, True
        scoring = self._measure() * sum(i not in self.scores.results for i in everything)
        rest = max(self.clock.left() - 1.2 * scoring, 0.1 * self.clock.left())
        self.say(
            f"{self.annotations.count} annotations in {len(everything)} images, "
            f"{len(todo)} head{'s' * (len(todo) > 1)} to train. Times: training "
            f"{rest / 60:.1f} min at most, scoring {scoring / 60:.1f} min"
        )
        start = self.clock.used()
        # Not for heads that an interrupted call has trained.
        views = functools.cache(lambda: self._views(everything, rng, start + rest / 3))
        heads = []
        for position, k in enumerate(todo):
            left_out = groups[k] if parts is not None else []
            share = functools.partial(self._share, start + rest, len(todo) - position)
            heads.append((*self._heads(views, k, left_out, share), groups[k]))
        return self._score(heads, rng)

    def _share(self, until: float, parts: int) -> float:
        """An equal part of the time until a reading of the clock."""
        return max((until - self.clock.used()) / parts, 1.0)

    def _measure(self) -> float:
        """Seconds to score an image of usual size; a first one warms up."""
        model = self.source.model
        sizes = [len(each.rows) for each in self.annotations.images]
        index = int(np.argsort(sizes)[len(sizes) // 2])
        for _ in range(2):
            start = self.clock.used()
            score_image(model, model.energy_head, self.images, index, flips=self.flips)
        return self.clock.used() - start

    def _views(self, everything: Sequence[int], rng, until: float) -> ViewCache:
        order = [i for i in rng.permutation(everything) if len(self.annotations.images[i].rows)]
        views = ViewCache(
            self.source.model,
            self.images,
            [int(i) for i in order],
            flips_of(self.source.cfg),
            self.cache_bytes,
            lambda: self.clock.used() > until,
            Progress("computing features", self.say, self.clock),
        )
        self.say(f"{len(views.views)} views of {len(views)} images in memory to train on")
        return views

    def _heads(
        self,
        views: Callable[[], ViewCache],
        k: int,
        left_out: Sequence[int],
        seconds: Callable[[], float],
    ) -> tuple[nn.Module, KLRegressor | None]:
        """The energy head and the Gaussian of a fold."""
        training = train_head(
            self.source,
            views,
            left_out,
            self.folder / "heads" / f"{k}.pth",
            self.max_iters,
            seconds,
            self.clock,
            self.seed + k,
            Progress(f"training head {k + 1}", self.say, self.clock),
            others=lambda: new_gaussian(self.source),
        )
        short = training.iteration < self.max_iters
        self.say(
            f"head {k + 1}: {training.iteration} iterations in {training.seconds:.0f} s"
            + (f", of {self.max_iters}: the time for it was over" if short else "")
        )
        self.iterations[k] = training.iteration
        heads = {name: head.eval() for name, head in training.heads.items()}
        return heads["energy"], heads.get("gaussian")

    def _score(
        self, heads: Sequence[tuple[nn.Module, KLRegressor | None, Sequence[int]]], rng
    ) -> tuple[dict[int, dict], bool]:
        complete = True
        for position, (head, gaussian, images) in enumerate(heads):
            score = functools.partial(
                score_image,
                self.source.model,
                head,
                self.images,
                gaussian=gaussian,
                flips=self.flips,
            )
            left = self.clock.left() / (len(heads) - position)
            complete &= self.scores.run(
                [int(i) for i in rng.permutation(images)],
                score,
                self.clock,
                self.clock.used() + left,
                Progress(f"scoring {position + 1} of {len(heads)}", self.say, self.clock),
            )
        return self.scores.results, complete

    def leave(
        self,
        found: Findings,
        results: dict,
        complete: bool,
        threshold: float,
        ann_file: Path,
        folds: int,
        key: str,
    ) -> dict:
        """Write the files and the page, and say what was found."""
        write_exports(self.folder, self.annotations, found, threshold)
        flagged = sum(each["probability"] >= threshold for each in found.boxes)
        summary = dict(
            annotations=len(self.annotations.content["annotations"]),
            audited=len(found.boxes),
            flagged=int(flagged),
            share_bad=round(found.mixture.share, 4),
            missing=len(found.missing),
            superfluous=len(found.superfluous),
            complete=complete,
            page=str(self.folder / "index.html"),
            folds=folds,
            threshold=threshold,
            images=len(results),
            mixture=found.mixture.to_dict(),
            side_factor=round(found.side_factor, 4),
            not_audited=self.annotations.complaints.lines(),
        )
        write_page(self.folder, self.annotations, found, summary, ann_file, key, self.say)
        write_json(self.folder / "summary.json", summary)
        self.clock.save()
        if not complete:
            self.say(
                f"{len(results)} of {len(self.annotations.images)} images were scored in the time; "
                "the same command with more --minutes goes on"
            )
        if any(number < self.max_iters for number in self.iterations.values()):
            self.say(
                f"heads had {min(self.iterations.values())} iterations at least, of "
                f"{self.max_iters}; a new --out with more --minutes trains them longer"
            )
        self.say(
            f"{summary['audited']} annotations audited: {flagged} are probably badly located, "
            f"{summary['missing']} objects may lack one, {summary['superfluous']} may be about "
            f"nothing. Open {summary['page']}"
        )
        return summary
