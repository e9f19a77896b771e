"""Image regression: p(y | x) of a few numbers y given an image x."""

from .data_sample import RegressionDataSample
from .datasets import (
    CropCountDataset,
    GeneratedRegressionDataset,
    LoadRegressionImage,
    PackRegressionInputs,
    RandomFlipTarget,
    RandomLight,
    RandomScaleCrop,
    RegressionArrayDataset,
    RegressionDataset,
)

__all__ = [
    "CropCountDataset",
    "GeneratedRegressionDataset",
    "LoadRegressionImage",
    "PackRegressionInputs",
    "RandomFlipTarget",
    "RandomLight",
    "RandomScaleCrop",
    "RegressionArrayDataset",
    "RegressionDataSample",
    "RegressionDataset",
]
