"""Scores the images of an audit one after the other; results are kept in files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...files import read_json, write_json
from ...models.detectors import EBMDetector
from ...models.flip_mean import FlipMean
from ...models.inclusive_boxes import rescale_inclusive, undo_rescale_inclusive
from ..fitting.clock import Clock
from ..fitting.kl_regressor import KLRegressor
from .evidence import NUM_STEPS, Evidence, box_evidence
from .features import AuditImages, Seen, over_flips
from .presence import presence

__all__ = ["Scores", "joined_surprise", "score_image"]

INFINITE = 1e9
"""Stands for an infinite log-ratio or surprise, which JSON does not have."""
IMAGES_PER_FILE, SECONDS_PER_FILE = 100, 30.0


class Scores:
    """Results of images by their position; an interrupted scoring goes on with the next image.

    Args:
        folder: folder of the results.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results: dict[int, dict] = {}
        """What :func:`score_image` returns."""
        self._files = 0
        while (stored := read_json(self._path(self._files))) is not None:
            self.results.update({each["image"]: each for each in stored})
            self._files += 1

    def _path(self, number: int) -> Path:
        return self.folder / f"part_{number:05d}.json"

    def run(
        self,
        positions: Sequence[int],
        score: Callable[[int], dict],
        clock: Clock,
        until: float,
        progress: Callable[[float], None] = lambda share: None,
    ) -> bool:
        """Score the images that have no result, until the time is over.

        Args:
            positions: of the images.
            score: makes the result of one.
            clock: of the audit.
            until: reading of the clock at which it stops; at least one image is scored.
            progress: receives the share that is done.

        Returns:
            Whether all are scored.
        """
        todo = [index for index in positions if index not in self.results]
        new: list[dict] = []
        saved = clock.used()
        try:
            for done, index in enumerate(todo):
                if done and clock.used() > until:
                    return False
                new.append(score(index))
                if len(new) == IMAGES_PER_FILE or clock.used() - saved > SECONDS_PER_FILE:
                    self._keep(new, clock)
                    new, saved = [], clock.used()
                progress((done + 1) / len(todo))
        finally:
            if new:
                self._keep(new, clock)
        return True

    def _keep(self, new: list[dict], clock: Clock) -> None:
        write_json(self._path(self._files), new)
        clock.save()
        self.results.update({each["image"]: each for each in new})
        self._files += 1


@torch.no_grad()
def score_image(
    model: EBMDetector,
    head: nn.Module,
    images: AuditImages,
    index: int,
    num_steps: int = NUM_STEPS,
    step_size: float | None = None,
    seen: Seen | None = None,
    gaussian: KLRegressor | None = None,
    flips: Sequence[str] = ("",),
) -> dict:
    """All about an image that the files and the page need; boxes in pixels of the image file.

    f and the surprise are means over the image and its mirror images.

    Args:
        model: the detector. With ``legacy_plus_one`` its detections, and the boxes that its own
            head is asked about, are half open in the network's input, as in its predictions; heads
            of folds have learned from annotations times r, and are asked about such boxes.
        head: the energy head, one that has not seen the image.
        images: the images.
        index: position of the image.
        num_steps: of the climb.
        step_size: of the climb.
        seen: what the detector makes of the image, if that is known.
        gaussian: head of the Gaussian that says how surprising an annotation is, if there is one;
            it has not seen the image either.
        flips: see :meth:`AuditImages.see`; of no effect with ``seen``.

    Returns:
        ``image``; for the annotations ``proposal``, ``log_ratio``, ``shift``, ``spread``,
        ``evidence`` (see :class:`Evidence`), ``surprise`` (nats; None without ``gaussian``),
        ``support``, ``detection`` (the matched box or None),
        ``score``; and ``missing``: ``box``, ``score``, ``label``, ``spread``.
    """
    here = images.images[index]
    seen = seen or images.see(model, index, flips)
    mean = FlipMean(head, seen.flips, seen.input_shape)
    feats = mean.prepare(seen.views)
    r = seen.scale.cpu().double()
    scale = r.numpy()
    legacy = model.legacy_plus_one
    own = legacy and head is model.energy_head

    def to_network(boxes: np.ndarray) -> Tensor:
        """(n, 4) float32 boxes that the head reads, of boxes in pixels of the file."""
        given = torch.from_numpy(boxes)
        if own:
            given = undo_rescale_inclusive(given, r)
        return given.float().to(seen.scale.device) * seen.scale

    def to_file(boxes: Tensor, inclusive: bool) -> np.ndarray:
        """(n, 4) float64 boxes in pixels of the file, of boxes in those of the network's input."""
        found = boxes.cpu().double() / r
        return (rescale_inclusive(found, r) if inclusive else found).numpy()

    limits = to_network(np.array([[0.0, 0.0, *here.image.size]]))[0, 2:]

    def look(boxes: Tensor, labels: Tensor) -> Evidence:
        return box_evidence(mean, feats, boxes, labels, limits, num_steps, step_size)

    boxes = to_network(here.boxes)
    labels = torch.from_numpy(here.labels).to(seen.scale.device)
    about = look(boxes, labels)
    surprise = None if gaussian is None else _surprise(gaussian, seen, boxes)
    found = to_file(seen.boxes, legacy)
    scores = seen.scores.cpu().double().numpy()
    classes = seen.labels.cpu().numpy()
    compared = presence(here.boxes, here.labels, here.others, found, scores, classes)
    absent = torch.from_numpy(compared.missing).to(seen.boxes.device)
    detected = seen.boxes[absent]
    if legacy and not own:
        detected = to_network(found[compared.missing])
    objects = look(detected, seen.labels[absent])
    proposal = to_file(about.proposal, own)
    # A box that the climb did not move keeps its numbers.
    still = (about.side_shift == 0).all(1).cpu().numpy()
    proposal[still] = here.boxes[still]
    return dict(
        image=index,
        proposal=_rounded(proposal),
        log_ratio=[round(min(x, INFINITE), 4) for x in about.log_ratio.tolist()],
        surprise=surprise,
        shift=_rounded(_pixels(about.side_shift, scale)),
        spread=_rounded(_pixels(about.side_spread, scale), 4),
        evidence=_rounded(about.side_evidence.clamp(-INFINITE, INFINITE).cpu().numpy()),
        support=_rounded(compared.support),
        detection=[None if k < 0 else _rounded(found[k]) for k in compared.match],
        score=[0.0 if k < 0 else round(float(scores[k]), 4) for k in compared.match],
        missing=dict(
            box=_rounded(to_file(objects.proposal, own)),
            score=_rounded(scores[compared.missing], 4),
            label=classes[compared.missing].tolist(),
            spread=_rounded(_pixels(objects.side_spread, scale), 4),
        ),
    )


def joined_surprise(results: Sequence[dict]) -> np.ndarray | None:
    """(n,) of the annotations of several results, or None if one was made without ``gaussian``."""
    parts = [each["surprise"] for each in results]
    if any(part is None for part in parts):
        return None
    surprise = np.concatenate([np.asarray(part, float) for part in parts])
    return np.where(surprise >= INFINITE, np.inf, surprise)


def _surprise(gaussian: KLRegressor, seen: Seen, boxes: Tensor) -> list[float]:
    """-log N(y; μ(y), σ(y)²) of the sides y of n boxes, in units of the box's size."""
    found = over_flips(seen, boxes, gaussian, lambda *given: gaussian.evidence(*given)[0])
    return _rounded(found.nan_to_num(INFINITE, INFINITE, -INFINITE).cpu().numpy(), 4)


def _pixels(values: Tensor, scale: np.ndarray) -> np.ndarray:
    return values.cpu().double().numpy() / scale


def _rounded(values: np.ndarray, digits: int = 3) -> list:
    return np.round(values, digits).tolist()
