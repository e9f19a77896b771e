"""Image regression: p(y | x) of a few numbers y given an image x."""

from .metrics import ProbabilisticRegressionMetric, RegressionMetric

__all__ = [
    "ProbabilisticRegressionMetric",
    "RegressionMetric",
]
