"""Heads: from image features to a number or to a density of numbers."""

from .direct_head import DirectRegressionHead
from .ebm_head import EBMRegressionHead
from .mixture_head import MixtureRegressionHead
from .regression_head import PredictionSettings, RegressionHead
from .softmax_head import SoftmaxRegressionHead

__all__ = [
    "DirectRegressionHead",
    "EBMRegressionHead",
    "MixtureRegressionHead",
    "PredictionSettings",
    "RegressionHead",
    "SoftmaxRegressionHead",
]
