"""Error bars across the sides of boxes, in mmdet's own picture."""

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="the visualiser is mmdet's")

import torch
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from ebm_mmdet.visualization.uncertainty import side_bars

BOX, STD = np.array([[20.0, 30, 60, 50]]), np.array([[1.0, 2, 3, 4]])


def test_bars_lie_across_the_middles_of_the_sides():
    x, y = side_bars(BOX, STD, (100, 100))
    np.testing.assert_array_equal(x, [[19, 21], [40, 40], [57, 63], [40, 40]])
    np.testing.assert_array_equal(y, [[40, 40], [28, 32], [40, 40], [46, 54]])
    ends = np.stack((BOX - STD, BOX + 2 * STD), axis=-1)  # an interval is drawn as it is
    x, y = side_bars(BOX, ends, (100, 100))
    np.testing.assert_array_equal(x, [[19, 22], [40, 40], [57, 66], [40, 40]])
    np.testing.assert_array_equal(y, [[40, 40], [28, 34], [40, 40], [46, 58]])


def test_bars_end_at_the_border():
    x, y = side_bars(BOX, 100 * STD, (70, 80))
    assert (x.min(), x.max(), y.min(), y.max()) == (0, 79, 0, 69)
    assert side_bars(BOX[:0], STD[:0], (70, 80))[0].shape == (0, 2)


@pytest.fixture
def visualizer():
    name = "ebm_mmdet.visualization.uncertainty.UncertaintyVisualizer"
    cfg = dict(type=name, name="test", bar_color="#00FF00", bbox_color=(255, 0, 0))
    return VISUALIZERS.build(cfg)


def draw(visualizer, tmp_path, **fields):
    found = InstanceData(
        bboxes=torch.tensor(BOX).float(), labels=torch.tensor([0]), scores=torch.tensor([0.9])
    )
    found.update(InstanceData(**fields))
    image = np.zeros((100, 100, 3), np.uint8)
    visualizer.add_datasample(
        "one",
        image,
        DetDataSample(pred_instances=found),
        draw_gt=False,
        out_file=str(tmp_path / "one.png"),
    )
    return visualizer.get_image().astype(int)


def test_detections_with_and_without_standard_deviations(visualizer, tmp_path):
    def green(picture):
        return (picture[..., 1] - picture[..., [0, 2]].max(axis=2)) > 100

    assert not green(draw(visualizer, tmp_path)).any()
    rows, columns = np.nonzero(green(draw(visualizer, tmp_path, side_std=torch.tensor(3 * STD))))
    # From 17 to 69 and from 24 to 62, and the width of a line.
    assert np.abs([columns.min() - 17, columns.max() - 69]).max() <= 2
    assert np.abs([rows.min() - 24, rows.max() - 62]).max() <= 2
    assert (tmp_path / "one.png").exists()
