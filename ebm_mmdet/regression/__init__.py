"""Image regression: p(y | x) of a few numbers y given an image x."""

from .metrics import ProbabilisticRegressionMetric, RegressionMetric
from .pictures import draw_prediction
from .visualizer import RegressionVisualizationHook, RegressionVisualizer

__all__ = [
    "ProbabilisticRegressionMetric",
    "RegressionMetric",
    "RegressionVisualizationHook",
    "RegressionVisualizer",
    "draw_prediction",
]
