"""The pictures: they show their arguments, and files are written atomically."""

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.patches import Rectangle

pytest.importorskip("mmdet", reason="importing ebm_mmdet registers with mmdet")

from ebm_mmdet.box_iou import box_iou
from ebm_mmdet.datasets.rooms import SCENE_TYPES, RoomOptions, render_room
from ebm_mmdet.visualization import save_figure
from lab.pictures import (
    draw_before_after,
    draw_refinement_paths,
    draw_rooms,
    plot_ap_vs_steps,
    plot_density_slices,
)
from lab.pictures.boxes import window_around

IMAGE = np.zeros((40, 60, 3), np.uint8)
TRUTH = np.array([[5.0, 5.0, 25.0, 25.0], [30.0, 10.0, 50.0, 30.0]])


def shifted(pixels):
    return TRUTH + np.array([pixels, 0, pixels, 0])


def rectangles(axes):
    found = [
        (*p.get_xy(), p.get_width(), p.get_height())
        for p in axes.patches
        if isinstance(p, Rectangle)
    ]
    return np.array(found)


def test_window_is_a_square_inside_the_image_around_everything_that_fits():
    x1, y1, x2, y2 = window_around(TRUTH[:1], IMAGE.shape[:2])
    assert x2 - x1 == pytest.approx(y2 - y1)
    assert 0 <= x1 <= 5
    assert 0 <= y1 <= 5
    assert 25 <= x2 <= 60
    assert 25 <= y2 <= 40


def test_before_after_draws_every_box_and_says_the_mean_iou(tmp_path):
    before, after = shifted(10), shifted(1)
    figure = draw_before_after([IMAGE], [TRUTH], [before], [after])
    above, below = figure.axes
    for axes, boxes, iou in ((above, before, "0.333"), (below, after, "0.905")):
        expected = np.concatenate([TRUTH, boxes])
        expected = np.concatenate([expected[:, :2], expected[:, 2:] - expected[:, :2]], 1)
        np.testing.assert_allclose(rectangles(axes), expected)
        assert iou in axes.get_xlabel()
    path = save_figure(figure, tmp_path / "new" / "picture.png", dpi=50)
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]
    assert imread(path).std() > 0.05


def test_image_without_detections_is_drawn():
    none = np.empty((0, 4))
    figure = draw_before_after([IMAGE], [TRUTH], [none], [none])
    assert len(rectangles(figure.axes[0])) == len(TRUTH)
    assert "nan" in figure.axes[0].get_xlabel()


def test_paths_show_start_end_and_truth():
    path = np.linspace(TRUTH[0] + 5, TRUTH[0] + 1, 6)
    figure = draw_refinement_paths([IMAGE] * 2, [path] * 2, [TRUTH[0]] * 2)
    axes = figure.axes[0]
    corners = rectangles(axes)[:, :2]
    np.testing.assert_allclose(corners, [path[0, :2], path[-1, :2], TRUTH[0, :2]])
    assert len(axes.lines) == 4  # the boxes between
    iou = box_iou(path[[0, -1]], TRUTH[0])
    assert axes.get_xlabel() == f"IoU {iou[0]:.3f} → {iou[1]:.3f}"


@pytest.mark.parametrize("draw", [draw_before_after, draw_refinement_paths])
def test_nothing_to_draw_is_an_error(draw):
    arguments = [[]] * (4 if draw is draw_before_after else 3)
    with pytest.raises(ValueError, match="at least one"):
        draw(*arguments)


def test_density_slices_put_the_truth_where_it_is():
    reference = TRUTH[0]
    truth = np.array([0.1, -0.05, np.log(1.2), np.log(0.9)])
    path = np.linspace(np.zeros(4), 0.8 * truth, 4)
    centre, size = np.linspace(-0.3, 0.3, 13), np.linspace(-0.2, 0.2, 11)
    x, y = np.meshgrid(centre, centre)
    figure = plot_density_slices(
        IMAGE, reference, path, truth, centre, 1000 - x**2 - y**2, size, np.zeros((11, 11))
    )
    on_image, centre_axes, size_axes, _ = figure.axes
    x1, y1, width, height = rectangles(on_image)[-1]
    assert (width, height) == pytest.approx((24, 18))
    assert (x1 + width / 2, y1 + height / 2) == pytest.approx((17, 14))
    for axes, columns in ((centre_axes, slice(0, 2)), (size_axes, slice(2, 4))):
        stars = [line for line in axes.lines if line.get_marker() == "*"]
        np.testing.assert_allclose(stars[0].get_xydata(), truth[None, columns])
    assert centre_axes.yaxis_inverted()
    values = centre_axes.collections[0].get_array()
    assert values.max() == pytest.approx(1)  # relative to the maximum, however large f is


def test_curve_needs_the_detector_as_its_start():
    steps, values = [0, 5, 10], {"AP": [[70, 71, 72], [72, 73, 74]], "AP90": [40, 45, 50]}
    figure = plot_ap_vs_steps(steps, values, used=10)
    mean = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    np.testing.assert_allclose(mean.get_ydata(), [71, 72, 73])
    with pytest.raises(ValueError, match="begin with 0"):
        plot_ap_vs_steps([1, 2], {"AP": [70, 71]})
    with pytest.raises(ValueError, match="AP has 2 values for 3 steps"):
        plot_ap_vs_steps(steps, {"AP": [70, 71]})


def test_rooms_are_drawn_with_the_boxes_that_count():
    rooms = [render_room(0, index, RoomOptions(image_size=(24, 32))) for index in range(3)]
    figure = draw_rooms(rooms)
    panels = np.array(figure.axes).reshape(-1, 3)
    assert len(panels) == 4
    assert not panels[3, 0].get_visible()
    for room, (picture, *_) in zip(rooms, panels):
        boxes = room.boxes[~room.ignored]
        expected = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
        np.testing.assert_allclose(rectangles(picture).reshape(-1, 4), expected)
        assert picture.get_title(loc="left") == SCENE_TYPES[room.scene_type].replace("_", " ")
        assert len(picture.texts) == len(boxes)
    with pytest.raises(ValueError, match="at least one room"):
        draw_rooms([])
