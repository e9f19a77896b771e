"""Image regression: p(y | x) of a few numbers y given an image x."""

from .data_sample import RegressionDataSample
from .datasets import GeneratedRegressionDataset, PackRegressionInputs

__all__ = [
    "GeneratedRegressionDataset",
    "PackRegressionInputs",
    "RegressionDataSample",
]
