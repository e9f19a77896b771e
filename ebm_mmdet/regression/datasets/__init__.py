"""Data sets of image regression: generated, published and the user's own."""

from .array_file import ArrayFile, ArrayFileError
from .crop_count import CropCountDataset
from .generated import TASKS, GeneratedTask, Sample
from .generated_dataset import GeneratedRegressionDataset
from .image_file import LoadRegressionImage, read_image
from .packing import PackRegressionInputs
from .published import PRESETS, RegressionArrayDataset
from .regression_dataset import RegressionDataset
from .splits import split_indices
from .table import read_table
from .target_space import TargetError, complete_target
from .transforms import RandomFlipTarget, RandomLight, RandomQuarterTurns, RandomScaleCrop
from .truth import IntegerTruth, MixtureTruth

__all__ = [
    "PRESETS",
    "TASKS",
    "ArrayFile",
    "ArrayFileError",
    "CropCountDataset",
    "GeneratedRegressionDataset",
    "GeneratedTask",
    "IntegerTruth",
    "LoadRegressionImage",
    "MixtureTruth",
    "PackRegressionInputs",
    "RandomFlipTarget",
    "RandomLight",
    "RandomQuarterTurns",
    "RandomScaleCrop",
    "RegressionArrayDataset",
    "RegressionDataset",
    "Sample",
    "TargetError",
    "complete_target",
    "read_image",
    "read_table",
    "split_indices",
]
