"""The reliability plot draws what it is given."""

import numpy as np
import pytest
from matplotlib.image import imread

pytest.importorskip("mmdet", reason="importing ebm_mmdet registers with mmdet")

from ebm_mmdet.visualization import plot_reliability, save_figure

LEVELS = np.linspace(0.1, 0.9, 9)


def test_curves_and_errors(tmp_path):
    coverage = {"x1": LEVELS**2, "y1": LEVELS}
    figure = plot_reliability(LEVELS, coverage, 100)
    curves = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    error = np.abs(LEVELS**2 - LEVELS).mean()
    np.testing.assert_allclose(curves[f"x1, error {error:.3f}"], np.stack([LEVELS, LEVELS**2], 1))
    assert "y1, error 0.000" in curves
    assert imread(save_figure(figure, tmp_path / "reliability.png", dpi=50)).std() > 0.05


def test_lengths_are_checked():
    with pytest.raises(ValueError, match="x1 has 3 values for 9 levels"):
        plot_reliability(LEVELS, {"x1": np.zeros(3)}, 10)
