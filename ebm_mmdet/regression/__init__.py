"""From images to numbers: regression by energies, mixtures, bins or directly."""

from .data_sample import RegressionDataSample
from .heads import (
    DirectRegressionHead,
    EBMRegressionHead,
    MixtureRegressionHead,
    PredictionSettings,
    RegressionHead,
    SoftmaxRegressionHead,
)
from .regressor import ImageRegressor, PoolNeck
from .target_codec import TargetCodec

__all__ = [
    "DirectRegressionHead",
    "EBMRegressionHead",
    "ImageRegressor",
    "MixtureRegressionHead",
    "PoolNeck",
    "PredictionSettings",
    "RegressionDataSample",
    "RegressionHead",
    "SoftmaxRegressionHead",
    "TargetCodec",
]
