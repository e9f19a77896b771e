"""Test-time augmentation of scenes, depths and normals."""

from __future__ import annotations

import copy

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, LabelData, PixelData

from ebm_mmdet.models.test_time_augs.auxiliary_views import merge_auxiliary_views
from tests.ebm_mmdet.models.rock.rock_toys import SIZE, build, rock_cfg


def view(direction: str | None, truth, size=(4, 6)) -> DetDataSample:
    """What a perfect network predicts of a mirrored image."""
    depth, normals, scores = truth
    sample = DetDataSample(
        metainfo=dict(flip=bool(direction), flip_direction=direction, ori_shape=(64, 96))
    )
    if direction in ("horizontal", "diagonal"):
        depth, normals = depth.flip(2), normals.flip(2) * torch.tensor([-1.0, 1, 1])[:, None, None]
    if direction in ("vertical", "diagonal"):
        depth, normals = depth.flip(1), normals.flip(1) * torch.tensor([1.0, -1, 1])[:, None, None]
    sample.pred_depth = PixelData(depth=depth)
    sample.pred_normals = PixelData(normals=normals)
    sample.pred_scene = LabelData(scores=scores, ranking=scores.argsort(descending=True))
    sample.pred_instances = InstanceData(
        bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long)
    )
    return sample


def with_views(detector: dict | torch.nn.Module) -> torch.nn.Module:
    """Test-time augmentation of a detector, or of that of a config."""
    init_default_scope("mmdet")
    suppression = dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=10)
    return MODELS.build(dict(type="EBMTTAModel", module=detector, tta_cfg=suppression))


DIRECTIONS = ["horizontal", "vertical", "diagonal", None]


def test_views_of_a_perfect_network_merge_to_the_truth():
    truth = (
        torch.rand(1, 4, 6) + 0.5,
        torch.nn.functional.normalize(torch.randn(3, 4, 6), dim=0),
        torch.tensor([0.2, 0.5, 0.3]),
    )
    views = [view(direction, truth) for direction in DIRECTIONS]
    model = with_views(rock_cfg())
    merged = model._merge_single_sample(views)
    for found, expected in zip(
        (merged.pred_depth.depth, merged.pred_normals.normals, merged.pred_scene.scores), truth
    ):
        torch.testing.assert_close(found, expected)
    assert merged.pred_scene.ranking.tolist() == [1, 2, 0]


def test_test_time_augmentation_of_a_whole_model():
    """The merged maps are the averages of what the model predicts of each view."""
    rock = build(rock_cfg())
    model = with_views(rock)
    image = torch.randint(256, (3, *SIZE), dtype=torch.uint8)
    inputs, samples = [], []
    for flip in (True, False):  # as in mmdet's configs, the mirrored view comes first
        meta = dict(
            img_shape=SIZE,
            ori_shape=SIZE,
            scale_factor=(1.0, 1.0),
            flip=flip,
            flip_direction="horizontal" if flip else None,
            img_id=0,
        )
        inputs.append([image.flip(2) if flip else image])
        samples.append([DetDataSample(metainfo=meta)])
    with torch.no_grad():
        (found,) = model.test_step(dict(inputs=inputs, data_samples=copy.deepcopy(samples)))
        (mirrored,), (straight,) = (
            rock.test_step(dict(inputs=x, data_samples=copy.deepcopy(each)))
            for x, each in zip(inputs, samples)
        )
    depth = (mirrored.pred_depth.depth.flip(2) * straight.pred_depth.depth).sqrt()
    torch.testing.assert_close(found.pred_depth.depth, depth)
    signs = torch.tensor([-1.0, 1, 1])[:, None, None]
    normals = mirrored.pred_normals.normals.flip(2) * signs + straight.pred_normals.normals
    normals = torch.nn.functional.normalize(normals, dim=0)
    torch.testing.assert_close(found.pred_normals.normals, normals)
    assert 0 < len(found.pred_instances) <= 10


def test_views_are_averaged():
    """Depth: geometric mean; normals: mean at length 1; scenes: mean; of other sizes: resized."""
    up, right = torch.tensor([0.0, 0, 1]), torch.tensor([1.0, 0, 0])
    one, two = (
        (torch.full((1, 4, 6), depth), normal[:, None, None].expand(3, 4, 6), scores)
        for depth, normal, scores in (
            (1.0, up, torch.tensor([1.0, 0.0])),
            (4.0, right, torch.tensor([0.2, 0.8])),
        )
    )
    big = (two[0].repeat(1, 2, 2), two[1].repeat(1, 2, 2), two[2])
    for second in (two, big):
        views = [view(None, one), view(None, second)]
        merge_auxiliary_views(views)
        torch.testing.assert_close(views[0].pred_depth.depth, torch.full((1, 4, 6), 2.0))
        expected = (0.5**0.5 * (up + right))[:, None, None].expand(3, 4, 6)
        torch.testing.assert_close(views[0].pred_normals.normals, expected)
        torch.testing.assert_close(views[0].pred_scene.scores, torch.tensor([0.6, 0.4]))
