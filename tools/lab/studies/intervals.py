"""Do calibrated intervals hold, and how wide are they? Many random halves of the same images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from scipy.stats import betabinom
from torch import Tensor

from ebm_mmdet.apis import load_detector
from ebm_mmdet.apis.trained_detector import read_config
from ebm_mmdet.files import markdown_table, write_json

from .interval_boxes import BoxKind, ImageBoxes
from .interval_rivals import Rivals, models_with_heads
from .replay import Replay
from .study_file import StudyFileError

__all__ = ["interval_table", "measure_intervals", "random_halves"]


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
    undirected: bool = False,
) -> list[dict]:
    """Run a detector, try each kind of spread that it gives, and print a table.

    An ``EBM3DDetector`` is compared with its detector, and with the mean and the spread of samples
    of its f; see :func:`.intervals_3d.models_in_3d`.

    Args:
        config: of a detector of mmdet or mmdet3d.
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
        undirected: for boxes in 3D: yaw counts modulo π.

    Returns:
        The rows of :func:`random_halves`, for each model and kind of spread.

    Raises:
        StudyFileError: an option is for boxes of the other kind.
    """
    cfg = read_config(config)
    if cfg_options:
        cfg.merge_from_dict(dict(cfg_options))
    in_3d = str(cfg.get("default_scope")) == "mmdet3d"
    given = {"--shapes": num_shapes is not None, "--heads": rivals is not None}
    given = given if in_3d else {"--undirected": undirected}
    for option in [name for name, there in given.items() if there]:
        this, other = ("3D", "images") if in_3d else ("images", "3D")
        raise StudyFileError(f"{option} is for boxes in {other}; {config} has boxes in {this}")
    if in_3d:
        from .intervals_3d import LidarBoxes, lidar_dataset, models_in_3d

        boxes, dataset = LidarBoxes(undirected), lidar_dataset(cfg)
        models = models_in_3d(cfg, checkpoint, dataset, boxes, say)
    else:
        boxes = ImageBoxes()
        init_default_scope(cfg.get("default_scope", "mmdet"))
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
        replay, classes = Replay(model), boxes.num_classes(model, dataset)
        for kind in boxes.spreads:
            replay.position = 0
            try:
                found = boxes.match(replay, dataset, level, kind)
            except ValueError as error:
                say(f"{name or 'model'} without {kind}: {error}")
                continue
            halves = random_halves(found, classes, level, splits, seed, boxes, say)
            rows += [dict(boxes=name, **row) if name else row for row in halves]
    if out is not None:
        write_json(out, dict(level=level, splits=splits, images=len(dataset), rows=rows))
    say(interval_table(rows, boxes))
    return rows


def _shapes(number: int) -> dict:
    """Images that no demo trains on, in the sizes that it trains on."""
    demo = Config.fromfile(Path(__file__).parents[3] / "configs" / "demo" / "shapes_ebm.py")
    images = demo.train_dataloader.dataset
    # A resize that changes nothing gives the scale factor that detectors ask for.
    resize = dict(type="Resize", scale=tuple(images.image_size[::-1]), keep_ratio=True)
    return {**images, "num_images": number, "seed": 77, "pipeline": [resize, *images.pipeline]}


def random_halves(
    found: tuple,
    num_classes: int,
    level: float,
    splits: int,
    seed: int = 0,
    boxes: BoxKind | None = None,
    say: Callable[[str], None] = print,
) -> list[dict]:
    """Calibrate on a random half of the images, and test on the other half, many times.

    Args:
        found: matched detections of all images, such as :class:`~ebm_mmdet.apis.MatchedSides`.
        num_classes: of the detector.
        level: probability of the intervals.
        splits: number of halves.
        seed: of the halves.
        boxes: their kind, by default :class:`ImageBoxes`.
        say: gets a line for each row that too few detections leave out.

    Returns:
        Rows with ``spread``, ``bounds`` (how they are made), ``coverage`` (mean share of sides that
        are inside, of boxes with all four if joint), ``std`` over the halves, ``in_band`` (share of
        halves within the central 95 % of the Beta-binomial distribution for independent
        detections), and the coverage of groups by size and mean widths: in images ``small`` and
        ``medium`` (boxes below 32 and of 32 to 96 px), and ``width`` in pixels. For ``std``, first
        the intervals of a Gaussian, without calibration.
    """
    boxes = boxes or ImageBoxes()
    generator = torch.Generator().manual_seed(seed)
    images = found.image.unique()
    halves = []
    for _ in range(splits):
        first = images[torch.randperm(len(images), generator=generator)[: len(images) // 2]]
        halves.append(torch.isin(found.image, first))
    rows = []
    if found.kind == "std":
        z = NormalDist().inv_cdf((1 + level) / 2)
        reach = boxes.gaussian(z, found)
        measured = [_measure(boxes, found, reach, ~half) for half in halves]
        rows.append(_row(boxes, found, f"Gaussian, ± {z:.2f} std", measured))
    for name, options in boxes.ways(num_classes).items():
        try:
            measured = [
                _measure_calibrated(boxes, found, half, num_classes, level, options)
                for half in halves
            ]
        except ValueError as error:
            say(f"without {found.kind}, {name}: {error}")
            continue
        rows.append(_row(boxes, found, name, measured))
    return rows


def _measure_calibrated(
    boxes: BoxKind, found: tuple, half: Tensor, num_classes: int, level: float, options: Mapping
) -> dict:
    """What intervals from one half are worth on the other one.

    Raises:
        ValueError: there are too few detections, or images, for the level.
    """
    intervals = boxes.fit(_some(found, half), num_classes, level, **options)
    reach = boxes.reach(intervals, found, **options)
    one = _measure(boxes, found, reach, ~half, options.get("joint", False))
    used, tests = intervals.facts["detections"], int((~half).sum())
    k = math.ceil((used + 1) * level - 1e-9)
    band = betabinom(tests, k, used + 1 - k)
    low, high = band.ppf(0.025) / tests, band.ppf(0.975) / tests
    one["in_band"] = np.mean([low <= c <= high for c in one.pop("each")])
    return one


def _some(found: tuple, mask: Tensor) -> tuple:
    return type(found)(*(each[mask] for each in found[:-1]), kind=found.kind)


def _measure(
    boxes: BoxKind, found: tuple, reach: Tensor, mask: Tensor, joint: bool = False
) -> dict:
    found, reach = _some(found, mask), reach[mask]
    below, above = reach.unbind(-1)
    inside = (found.residual >= -below) & (found.residual <= above)
    inside = (inside.all(1, keepdim=True) if joint else inside).float()
    groups = {key: float(inside[some].mean()) for key, some in boxes.members(found).items()}
    return dict(
        coverage=float(inside.mean()),
        each=inside.mean(0).tolist(),
        **groups,
        **boxes.widths(found, reach),
    )


def _row(boxes: BoxKind, found: tuple, bounds: str, measured: list[dict]) -> dict:
    row = dict(spread=found.kind, bounds=bounds, detections=len(found.labels))
    for key in ("coverage", "in_band", *boxes.groups, *boxes.units):
        if key in measured[0]:
            row[key] = float(np.mean([each[key] for each in measured]))
    row["std"] = float(np.std([each["coverage"] for each in measured], ddof=1))
    return row


def interval_table(rows: list[dict], boxes: BoxKind | None = None) -> str:
    """A Markdown table of the rows, in percent and the units of the boxes."""
    boxes = boxes or ImageBoxes()
    widths = boxes.units
    header = ("spread, bounds", "coverage", *boxes.groups.values(), "in the band", *widths.values())
    lines = []
    for row in rows:
        name = f"{row['boxes']}: " if row.get("boxes") else ""
        lines.append(
            (
                f"{name}{row['spread']}, {row['bounds']}",
                f"{100 * row['coverage']:.1f} ± {100 * row['std']:.1f}",
                *(f"{100 * row[key]:.1f}" for key in boxes.groups),
                f"{100 * row['in_band']:.0f}" if "in_band" in row else "",
                *(f"{row[key]:.2f}" for key in widths),
            )
        )
    return markdown_table(header, lines)
