"""Fit the standard deviations of a refiner's prior to the residuals of a detector.

    python tools/analysis_tools/fit_residual_prior.py configs/nuclei/yolox_nano_nuclei_nceplus.py

Runs the detector on a data set, matches detections to annotations, and prints two lines, one of
which to paste into the config of an EBMDetector: the first for a prior about the detection, the
second for a prior about the detection plus the median residual. The checkpoint is the config's
``load_from`` unless another one is given.
"""

from __future__ import annotations

import argparse
import math

from mmdet.registry import DATASETS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from torch import Tensor

import ebm_mmdet  # noqa: F401  (registers our types)
from ebm_mmdet.apis import detector_residuals, load_frozen_detector
from ebm_mmdet.datasets import use_checked_annotations
from ebm_mmdet.energy import fit_residual_std
from ebm_mmdet.engine.config_options import OptionsAction, merge_options

FEWEST = 2
"""Matched detections; about its own median a single one has no spread."""


def main(arguments: list[str] | None = None) -> list[str]:
    """Fit the prior; print and return the config lines.

    Raises:
        SystemExit: an option is wrong, or the matched detections are too few or too exact for a
            prior; the message says what to do.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config of an EBMDetector")
    parser.add_argument("--checkpoint", help="detector checkpoint; default: the config's load_from")
    parser.add_argument(
        "--dataset",
        default="fit_dataset",
        help="key of a data set in the config with the test's pipeline (default: %(default)s; "
        "val_dataloader.dataset exists in every config, but then do not report results on it)",
    )
    parser.add_argument("--score-thr", type=float, default=0.3, help="default: %(default)s")
    parser.add_argument("--iou-thr", type=float, default=0.5, help="default: %(default)s")
    parser.add_argument("--k", type=float, default=0.125, help="weight of the density, scale^2")
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction)
    options = parser.parse_args(arguments)
    if not 0 < options.k < math.inf:
        parser.error(f"--k {options.k}; give a positive number, such as 0.125")

    register_all_modules()
    cfg = Config.fromfile(options.config)
    merge_options(cfg, options.cfg_options, {options.dataset.partition(".")[0]})
    cfg.load_from = options.checkpoint or cfg.get("load_from")
    try:
        dataset = cfg
        for key in options.dataset.split("."):
            dataset = dataset[key]
    except KeyError:
        parser.error(
            f"the config has no {options.dataset!r}; give --dataset val_dataloader.dataset"
        )
    use_checked_annotations()
    dataset = DATASETS.build(dataset)
    detector = load_frozen_detector(cfg)
    residuals = detector_residuals(detector, dataset, options.score_thr, options.iou_thr)
    if len(residuals) < FEWEST:
        parser.error(
            f"{len(residuals)} detections with a score of {options.score_thr} or more match an "
            f"object at an IoU of {options.iou_thr}, on {len(dataset)} images; a prior takes "
            f"{FEWEST} at least. Check that the checkpoint and the classes of {options.dataset} "
            "are those of the detector, or give a lower --score-thr or --iou-thr, or more images"
        )
    bias = residuals.median(0).values
    try:
        lines = [
            f"prior=dict(std={_rounded(fit_residual_std(rest, robust=None))}{more}, "
            f"scale={options.k**0.5:.4g}, temperature=1.0)"
            for rest, more in ((residuals, ""), (residuals - bias, f", bias={_rounded(bias)}"))
        ]
    except ValueError as error:
        parser.error(f"{error} Give images that the detector has not learned by heart")
    print(f"{len(residuals)} matched detections on {len(dataset)} images; for model.refiner:")
    print(lines[0])
    print("or, to correct the detector's systematic error too:")
    print(lines[1])
    return lines


def _rounded(values: Tensor) -> list[float]:
    """Three significant digits, so that no positive number becomes zero."""
    return [float(f"{value:.3g}") for value in values.tolist()]


if __name__ == "__main__":
    main()
