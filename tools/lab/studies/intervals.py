"""Do calibrated intervals hold, and how wide are they? Many random halves of the same images."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from scipy.stats import betabinom
from torch import Tensor, nn

from ebm_mmdet.apis import MatchedSides, fit_intervals, load_detector, matched_sides
from ebm_mmdet.apis.trained_detector import read_config
from ebm_mmdet.files import markdown_table, write_json
from ebm_mmdet.models.detectors.side_intervals import SPREADS
from ebm_mmdet.models.side_uncertainty import side_lengths

from .interval_rivals import Rivals, models_with_heads

__all__ = ["interval_table", "measure_intervals", "random_halves"]

FINEST_GROUP = 100
"""``min_count`` of bounds by class and size; see :func:`~ebm_mmdet.apis.calibrate`."""
POOLED = 10**9


def measure_intervals(
    config: str | Path,
    checkpoint: str | Path,
    level: float = 0.9,
    splits: int = 100,
    seed: int = 0,
    num_shapes: int | None = None,
    out: Path | None = None,
    cfg_options: Mapping[str, object] | None = None,
    rivals: Rivals | None = None,
    say: Callable[[str], None] = print,
) -> list[dict]:
    """Run a detector, try each kind of spread that it gives, and print a table.

    Args:
        config: of a detector.
        checkpoint: its checkpoint.
        level: probability of the intervals.
        splits: number of random halves.
        seed: of the halves, and of samples that a model draws.
        num_shapes: number of generated images, in the sizes of configs/demo/shapes_ebm.py, in place
            of the config's test data.
        out: JSON file for the rows; must not exist.
        cfg_options: dotted keys and values for the config.
        rivals: also heads on the same detector, each of which is trained if it is not there
            (:func:`.interval_rivals.models_with_heads`); without, the model of the checkpoint.
        say: gets the table.

    Returns:
        The rows of :func:`random_halves`, for each model and kind of spread.
    """
    cfg = read_config(config)
    if cfg_options:
        cfg.merge_from_dict(dict(cfg_options))
    dataset = DATASETS.build(
        cfg.test_dataloader.dataset if num_shapes is None else _shapes(num_shapes)
    )
    if rivals is None:
        models = [("", load_detector(cfg, checkpoint))]
    else:
        models = models_with_heads(cfg, checkpoint, rivals, say)
    rows = []
    for name, model in models:
        torch.manual_seed(seed)
        replay, classes = _Replay(model), len(model.dataset_meta["classes"])
        for kind in SPREADS:
            replay.position = 0
            try:
                sides = matched_sides(replay, dataset, level, kind)
            except ValueError as error:
                say(f"{name or 'model'} without {kind}: {error}")
                continue
            found = random_halves(sides, classes, level, splits, seed)
            rows += [dict(boxes=name, **row) if name else row for row in found]
    if out is not None:
        write_json(out, dict(level=level, splits=splits, images=len(dataset), rows=rows))
    say(interval_table(rows))
    return rows


class _Replay:
    """A detector whose predictions are made once, and then given again in the same order."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.dataset_meta = model, model.dataset_meta
        self.stored: list = []
        self.position = 0

    def test_step(self, data: dict) -> list:
        if self.position == len(self.stored):
            self.stored.append(self.model.test_step(data)[0].cpu())
        self.position += 1
        return [copy.deepcopy(self.stored[self.position - 1])]


def _shapes(number: int) -> dict:
    """Images that no demo trains on, in the sizes that it trains on."""
    demo = Config.fromfile(Path(__file__).parents[3] / "configs" / "demo" / "shapes_ebm.py")
    images = demo.train_dataloader.dataset
    # A resize that changes nothing gives the scale factor that detectors ask for.
    resize = dict(type="Resize", scale=tuple(images.image_size[::-1]), keep_ratio=True)
    return {**images, "num_images": number, "seed": 77, "pipeline": [resize, *images.pipeline]}


def random_halves(
    sides: MatchedSides, num_classes: int, level: float, splits: int, seed: int = 0
) -> list[dict]:
    """Calibrate on a random half of the images, and test on the other half, many times.

    Args:
        sides: matched detections of all images.
        num_classes: of the detector.
        level: probability of the intervals.
        splits: number of halves.
        seed: of the halves.

    Returns:
        Rows with ``spread``, ``bounds`` (how they are made), ``coverage`` (mean share of sides that
        are inside, of boxes with all four if joint), ``std`` over the halves, ``in_band`` (share of
        halves within the central 95 % of the Beta-binomial distribution for independent
        detections), ``small`` and ``medium`` (coverage of boxes below 32 and of 32 to 96 px), and
        ``width`` in pixels. For ``std``, first the intervals of a Gaussian, without calibration.
    """
    generator = torch.Generator().manual_seed(seed)
    images = sides.image.unique()
    halves = []
    for _ in range(splits):
        first = images[torch.randperm(len(images), generator=generator)[: len(images) // 2]]
        halves.append(torch.isin(sides.image, first))
    ways = [
        ("one for all", dict(min_count=POOLED)),
        ("by class and size", dict(min_count=FINEST_GROUP)),
        ("one for all, by image", dict(min_count=POOLED, by_image=True)),
        ("joint", dict(min_count=POOLED, joint=True)),
    ]
    rows = []
    if sides.kind == "std":
        z = NormalDist().inv_cdf((1 + level) / 2)
        half_width = z * sides.spread
        found = [_measure(sides, half_width, ~half) for half in halves]
        rows.append(_row(sides, f"Gaussian, ± {z:.2f} std", found))
    for name, options in ways:
        found = []
        for half in halves:
            intervals = fit_intervals(_some(sides, half), num_classes, level, **options)
            size = intervals.size_index(sides.boxes)
            bounds = intervals.bounds[sides.labels, size][..., None]
            measured = _measure(sides, bounds * sides.spread, ~half, options.get("joint", False))
            k = math.ceil((int(half.sum()) + 1) * level - 1e-9)
            tests = int((~half).sum())
            band = betabinom(tests, k, int(half.sum()) + 1 - k)
            low, high = band.ppf(0.025) / tests, band.ppf(0.975) / tests
            measured["in_band"] = np.mean([low <= c <= high for c in measured.pop("each")])
            found.append(measured)
        rows.append(_row(sides, name, found))
    return rows


def _some(sides: MatchedSides, mask: Tensor) -> MatchedSides:
    return MatchedSides(*(each[mask] for each in sides[:-1]), kind=sides.kind)


def _measure(sides: MatchedSides, reach: Tensor, mask: Tensor, joint: bool = False) -> dict:
    below, above = reach[mask].unbind(-1)
    residual = sides.residual[mask]
    inside = (residual >= -below) & (residual <= above)
    inside = (inside.all(1, keepdim=True) if joint else inside).float()
    size = side_lengths(sides.boxes[mask])
    small = (size[:, 0] * size[:, 1]).sqrt() < 32
    return dict(
        coverage=float(inside.mean()),
        each=inside.mean(0).tolist(),
        small=float(inside[small].mean()),
        medium=float(inside[~small].mean()),
        width=float(((below + above) * size).mean()),
    )


def _row(sides: MatchedSides, bounds: str, found: list[dict]) -> dict:
    row = dict(spread=sides.kind, bounds=bounds, detections=len(sides.labels))
    for key in ("coverage", "in_band", "small", "medium", "width"):
        if key in found[0]:
            row[key] = float(np.mean([each[key] for each in found]))
    row["std"] = float(np.std([each["coverage"] for each in found], ddof=1))
    return row


def interval_table(rows: list[dict]) -> str:
    """A Markdown table of the rows, in percent and pixels."""
    header = ("spread, bounds", "coverage", "below 32 px", "above", "in the band", "width, px")
    lines = []
    for row in rows:
        percent = {key: f"{100 * row[key]:.1f}" for key in ("coverage", "std", "small", "medium")}
        band = f"{100 * row['in_band']:.0f}" if "in_band" in row else ""
        lines.append(
            (
                (f"{row['boxes']}: " if row.get("boxes") else "")
                + f"{row['spread']}, {row['bounds']}",
                f"{percent['coverage']} ± {percent['std']}",
                percent["small"],
                percent["medium"],
                band,
                f"{row['width']:.2f}",
            )
        )
    return markdown_table(header, lines)
