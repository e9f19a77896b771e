"""Image regression: p(y | x) of a few numbers y given an image x.

Heads for energies, mixtures, bins and numbers, on any backbone; data sets and transforms that keep
label and picture together; metrics and pictures of densities.
"""

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
from .heads import (
    DirectRegressionHead,
    EBMRegressionHead,
    MixtureRegressionHead,
    PredictionSettings,
    RegressionHead,
    SoftmaxRegressionHead,
)
from .hooks import FitTargetCodecHook, FreezeBackboneHook, ProposalWarmUpHook
from .metrics import ProbabilisticRegressionMetric, RegressionMetric
from .pictures import draw_prediction
from .regressor import ImageRegressor, PoolNeck
from .target_codec import TargetCodec
from .teacher import TeacherOptimWrapperConstructor, TeacherRegressor
from .visualizer import RegressionVisualizationHook, RegressionVisualizer

__all__ = [
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
    "TeacherOptimWrapperConstructor",
    "TeacherRegressor",
    "draw_prediction",
]
