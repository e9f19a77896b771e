"""Data sets of image regression: generated, published and the user's own."""

from .generated import TASKS, GeneratedTask, Sample
from .generated_dataset import GeneratedRegressionDataset
from .packing import PackRegressionInputs
from .truth import IntegerTruth, MixtureTruth

__all__ = [
    "TASKS",
    "GeneratedRegressionDataset",
    "GeneratedTask",
    "IntegerTruth",
    "MixtureTruth",
    "PackRegressionInputs",
    "Sample",
]
