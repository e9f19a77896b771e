"""Scene, depth and normals beside the boxes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="the visualiser is mmdet's")

import torch
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, LabelData, PixelData

from ebm_mmdet.visualization import depth_to_colour, depth_to_grey, enlarge, normals_to_rgb

H, W = 96, 128


def make_sample(*kinds: str) -> DetDataSample:
    """A sample with some of pred_boxes, gt_depth, ..."""
    sample, rows = DetDataSample(), torch.linspace(1, 3, 6)[:, None].expand(6, 8)
    up = torch.zeros(3, 6, 8)
    up[1] = 1
    boxes = InstanceData(bboxes=torch.tensor([[20.0, 30, 60, 50]]), labels=torch.tensor([0]))
    for kind in kinds:
        source, _, what = kind.partition("_")
        if what == "boxes":
            found = boxes.clone()
            found.scores = torch.tensor([0.9])
            sample.set_data({f"{source}_instances": found})
        elif what == "depth":
            sample.set_data({kind: PixelData(depth=rows[None] * (1 if source == "gt" else 2))})
        elif what == "normals":
            sample.set_data({kind: PixelData(normals=up)})
            if source == "gt":
                sample.gt_normals.mask = torch.ones(1, 6, 8, dtype=torch.bool)
        elif kind == "gt_scene":
            sample.gt_scene = LabelData(label=torch.tensor([1]))
        else:
            scores = torch.tensor([0.1, 0.7, 0.2])
            ranking = scores.argsort(descending=True)
            sample.pred_scene = LabelData(scores=scores, ranking=ranking)
    return sample


@pytest.fixture
def visualizer(request):
    built = VISUALIZERS.build(dict(type="MultiTaskVisualizer", name=request.node.name))
    built.dataset_meta = dict(classes=("cat",), scene_types=("attic", "bath", "cellar"))
    return built


def draw(visualizer, sample, tmp_path, **options):
    image = np.full((H, W, 3), 200, np.uint8)
    path = tmp_path / "one.png"
    visualizer.add_datasample("one", image, sample, out_file=str(path), **options)
    assert path.is_file()
    return visualizer.get_image()


EVERYTHING = [f"{s}_{t}" for s in ("gt", "pred") for t in ("boxes", "depth", "normals", "scene")]


def test_one_row_for_the_truth_and_one_for_the_prediction(visualizer, tmp_path):
    sample = make_sample(*EVERYTHING)
    picture = draw(visualizer, sample, tmp_path)
    assert picture.shape == (2 * H, 3 * W, 3)
    # One range for both rows: the prediction is twice as far, so it is darker.
    depth = picture[:, W : 2 * W].astype(int).sum(-1)
    assert depth[H // 2 : H].mean() > depth[H + H // 2 :].mean() + 50
    # Normals (0, 1, 0) are (128, 255, 128).
    np.testing.assert_array_equal(picture[H // 2, -5], [128, 255, 128])
    assert draw(visualizer, sample, tmp_path, draw_gt=False).shape == (H, 3 * W, 3)


def test_columns_are_what_the_sample_has_and_missing_panels_are_grey(visualizer, tmp_path):
    picture = draw(visualizer, make_sample("pred_boxes", "pred_depth"), tmp_path)
    assert picture.shape == (2 * H, 2 * W, 3)
    np.testing.assert_array_equal(picture[H - 5, -5], [128] * 3)
    scene = draw(visualizer, make_sample("pred_boxes", "pred_scene"), tmp_path, draw_gt=False)
    assert scene.shape == (H, W, 3)
    plain = draw(visualizer, make_sample("pred_boxes"), tmp_path, draw_gt=False)
    assert (plain[32:50, 18:23] != 200).any()  # the left side of the box
    assert plain.shape == (H, W, 3)
    assert (scene[:30] != plain[:30]).any()  # the list of scenes
    np.testing.assert_array_equal(scene[60:], plain[60:])
    # Without any of the maps, as mmdet draws it: side by side.
    assert draw(visualizer, make_sample("pred_boxes"), tmp_path).shape == (H, 2 * W, 3)


def test_the_picture_goes_once_to_the_backends(visualizer):
    calls = []

    class Backend:
        def add_image(self, name, picture, step, **kwargs):
            calls.append((name, picture.shape, step))

    visualizer._vis_backends = {"one": Backend()}
    image = np.zeros((H, W, 3), np.uint8)
    visualizer.add_datasample("two", image, make_sample(*EVERYTHING), step=7)
    assert calls == [("two", (2 * H, 3 * W, 3), 7)]


def test_depth_and_normals_as_the_formulas_say():
    depth = np.array([[1.0, 2.0], [4.0, 0.0]])
    np.testing.assert_array_equal(depth_to_grey(depth), [[191, 128], [0, 0]])
    np.testing.assert_array_equal(depth_to_grey(np.array([[2.0]]), limit=8.0), [[191]])
    colour = depth_to_colour(np.array([[0.1, 3.0, np.nan]])).astype(int)
    assert colour[0, 0].sum() > colour[0, 1].sum()
    assert colour[0, 2].tolist() == [128] * 3
    with pytest.raises(ValueError, match="limit=0"):
        depth_to_grey(depth, limit=0)
    assert depth_to_grey(np.full((2, 3), np.inf)).tolist() == [[0] * 3] * 2
    normals = np.zeros((3, 1, 3))
    normals[:, 0, 0] = 1, 0, -1
    normals[:, 0, 1] = np.nan
    picture = normals_to_rgb(normals, np.array([[True, True, False]]))
    assert picture.tolist() == [[[255, 128, 0], [128] * 3, [128] * 3]]
    assert enlarge(picture, (4, 6)).shape == (4, 6, 3)
    assert len(np.unique(enlarge(picture, (4, 9)).reshape(-1, 3), axis=0)) == 2
