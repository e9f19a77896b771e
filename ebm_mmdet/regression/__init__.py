"""Image regression: p(y | x) of a few numbers y given an image x.

Heads for energies, mixtures, bins and numbers, on any backbone; data sets and transforms that keep
label and picture together; metrics and pictures of densities.
"""

from .data_sample import RegressionDataSample
from .datasets import (
    ArrayFileError,
    CropCountDataset,
    GeneratedRegressionDataset,
    LoadRegressionImage,
    PackRegressionInputs,
    RandomFlipTarget,
    RandomLight,
    RandomQuarterTurns,
    RandomScaleCrop,
    RegressionArrayDataset,
    RegressionDataset,
    TargetError,
    complete_target,
    read_table,
    split_indices,
)
from .density_metric import ProbabilisticRegressionMetric
from .error_metric import RegressionMetric
from .heads import (
    DirectRegressionHead,
    EBMRegressionHead,
    MixtureRegressionHead,
    PredictionSettings,
    RegressionHead,
    SoftmaxRegressionHead,
)
from .hooks import FitTargetCodecHook, FreezeBackboneHook, ProposalWarmUpHook
from .pictures import draw_prediction
from .regressor import ImageRegressor, PoolNeck
from .target_codec import TargetCodec
from .teacher import TeacherOptimWrapperConstructor, TeacherRegressor
from .timm_backbone import TimmBackbone
from .visualizer import RegressionVisualizationHook, RegressionVisualizer

__all__ = [
    "ArrayFileError",
    "CropCountDataset",
    "DirectRegressionHead",
    "EBMRegressionHead",
    "FitTargetCodecHook",
    "FreezeBackboneHook",
    "GeneratedRegressionDataset",
    "ImageRegressor",
    "LoadRegressionImage",
    "MixtureRegressionHead",
    "PackRegressionInputs",
    "PoolNeck",
    "PredictionSettings",
    "ProbabilisticRegressionMetric",
    "ProposalWarmUpHook",
    "RandomFlipTarget",
    "RandomLight",
    "RandomQuarterTurns",
    "RandomScaleCrop",
    "RegressionArrayDataset",
    "RegressionDataSample",
    "RegressionDataset",
    "RegressionHead",
    "RegressionMetric",
    "RegressionVisualizationHook",
    "RegressionVisualizer",
    "SoftmaxRegressionHead",
    "TargetCodec",
    "TargetError",
    "TeacherOptimWrapperConstructor",
    "TeacherRegressor",
    "TimmBackbone",
    "complete_target",
    "draw_prediction",
    "read_table",
    "split_indices",
]
