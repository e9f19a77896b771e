"""Compare detector, constant correction, regression head and energy head on validation images."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...evaluation import bootstrap_weights, paired_bootstrap
from ...files import read_json, write_json
from .clock import Clock
from .detections import Method
from .kind import Items, Kind, Matched

__all__ = ["Judging", "judge_rows"]

IMAGES_PER_FILE, SECONDS_PER_FILE = 50, 30.0
MOST_RESAMPLES, FEWEST_RESAMPLES = 1000, 50


class Judging:
    """Runs all methods on the same images, one image after the other; results are kept in files.

    An interrupted judging goes on with the next image. Images are taken in random order, so that
    the first ones are a fair sample if time is short.

    Args:
        folder: folder of the results.
        kind: of the boxes.
        images: the images.
        num_classes: of the detector.
        seed: seed of the order.
        max_dets: boxes of an image that are judged.
    """

    def __init__(
        self,
        folder: Path,
        kind: Kind,
        images: Items,
        num_classes: int,
        seed: int,
        max_dets: int = 100,
    ) -> None:
        self.folder, self.kind, self.images = folder, kind, images
        self.num_classes, self.max_dets = num_classes, max_dets
        self.order = np.random.default_rng(seed).permutation(len(images)).tolist()
        self.results: list[dict] = []
        """One entry per image: position, detector_s, methods (name, s, records), kind.facts."""
        self._files = 0
        while (stored := read_json(self._path(self._files))) is not None:
            self.results += stored
            self._files += 1

    def _path(self, number: int) -> Path:
        return self.folder / f"part_{number:05d}.json"

    def run(
        self,
        model: Any,
        methods: Sequence[Method],
        seconds: float,
        clock: Clock,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        """Judge images until all are done or the time is over, but at least one."""
        until = clock.used() + seconds
        new: list[dict] = []
        saved = clock.used()
        try:
            for position in self.order[len(self.results) :]:
                if (self.results or new) and clock.used() > until:
                    break
                new.append(self._judge(model, methods, position))
                late = clock.used() - saved > SECONDS_PER_FILE
                if len(new) == IMAGES_PER_FILE or late:
                    self._keep(new, clock)
                    new, saved = [], clock.used()
                progress((len(self.results) + len(new)) / len(self.order))
        finally:
            if new:
                self._keep(new, clock)

    def _keep(self, new: list[dict], clock: Clock) -> None:
        write_json(self._path(self._files), new)
        clock.save()
        self.results += new
        self._files += 1

    def _judge(self, model: Any, methods: Sequence[Method], position: int) -> dict:
        image = self.kind.detect(model, self.images[position], self.max_dets)
        rows = []
        for method in methods:
            found, seconds = self.kind.refine(model, method, image)
            records = self.kind.records(position, found, self.num_classes)
            rows.append(dict(name=method.name, s=seconds, records=records))
        facts = self.kind.facts(image)
        return dict(position=position, detector_s=image.seconds, methods=rows, **facts)

    def matched(self) -> list[Matched]:
        """The boxes of each method, matched to the annotations of the images that were judged."""
        results = sorted(self.results, key=lambda each: each["position"])
        positions = [each["position"] for each in results]
        return [
            self.kind.matched(
                self.images,
                positions,
                [each["methods"][k]["records"] for each in results],
                self.num_classes,
                self.max_dets,
            )
            for k in range(len(results[0]["methods"]))
        ]


def judge_rows(judging: Judging, seconds: float, seed: int = 0) -> list[dict]:
    """The table: metrics in percent, changes against the first row with bootstrap errors, times.

    Args:
        judging: what was judged.
        seconds: time for the bootstrap, from which the number of resamples follows.
        seed: seed of the resampling.

    Returns:
        For each method ``method``, the metrics, ``change_*`` and ``error_*`` (None in the first
        row, and where a metric is not defined), ``ms_per_image`` (detector and method, medians),
        ``resamples``.
    """
    results, matched = judging.results, judging.matched()
    names = [each["name"] for each in results[0]["methods"]]
    detector = float(np.median([each["detector_s"] for each in results]))
    ones = np.ones(len(results))
    start = time.perf_counter()
    before = _percent(matched[0], ones)
    one = max(time.perf_counter() - start, 1e-5)
    fits = int(seconds / (one * 2 * max(len(names) - 1, 1)))
    resamples = min(max(fits, FEWEST_RESAMPLES), MOST_RESAMPLES)
    weights = bootstrap_weights(len(results), resamples, seed)
    rows = []
    for k, (name, each) in enumerate(zip(names, matched)):
        row = dict(method=name)
        values = before if k == 0 else _percent(each, ones)
        change = None
        if k and len(results) > 1:
            with warnings.catch_warnings():
                # A metric without a value in any resample, such as the IoU of no boxes, is NaN.
                warnings.simplefilter("ignore", RuntimeWarning)
                change = paired_bootstrap(
                    lambda w: _percent(matched[0], w),
                    lambda w, each=each: _percent(each, w),
                    weights,
                )
        for i, metric in enumerate(judging.kind.headings):
            row[metric] = _number(values[i])
            row[f"change_{metric}"] = _number(values[i] - before[i]) if k else None
            row[f"error_{metric}"] = None if change is None else _number(change.std[i])
        own = 0.0 if k == 0 else float(np.median([one["methods"][k]["s"] for one in results]))
        row["ms_per_image"] = round(1e3 * (detector + own), 1)
        row["resamples"] = resamples
        rows.append(row)
    return rows


def _percent(matched: Matched, weights: np.ndarray) -> np.ndarray:
    return 100 * matched.metrics(weights)


def _number(value: float) -> float | None:
    """Rounded for a file; None for NaN, which JSON does not have."""
    return None if not np.isfinite(value) else round(float(value), 3)
