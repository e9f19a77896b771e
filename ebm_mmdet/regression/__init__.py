"""Image regression: p(y | x) of a few numbers y given an image x."""

from .data_sample import RegressionDataSample
from .datasets import GeneratedRegressionDataset, PackRegressionInputs
from .metrics import ProbabilisticRegressionMetric, RegressionMetric
from .pictures import draw_prediction
from .visualizer import RegressionVisualizationHook, RegressionVisualizer

__all__ = [
    "GeneratedRegressionDataset",
    "PackRegressionInputs",
    "ProbabilisticRegressionMetric",
    "RegressionDataSample",
    "RegressionMetric",
    "RegressionVisualizationHook",
    "RegressionVisualizer",
    "draw_prediction",
]
