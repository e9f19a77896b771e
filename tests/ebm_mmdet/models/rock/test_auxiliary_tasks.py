"""Losses and predictions of scene, depth and normals, against closed forms and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import LabelData, PixelData

from ebm_mmdet.datasets.nyuv2 import AuxiliaryTargets, PackMultiTaskInputs
from ebm_mmdet.models.rock import berhu
from ebm_mmdet.models.rock.map_targets import targets_of_cells
from tests.ebm_mmdet.models.rock.rock_toys import NUM_SCENES, TASKS, add_targets
from tests.tolerances import TOLERANCE

SIZE = (4, 6)


def make_task(name: str, **kwargs):
    torch.manual_seed(0)
    return MODELS.build({**TASKS[name], "in_channels": 8, **kwargs})


def sample(number: int = 0, without=(), shape=(64, 96), **meta) -> DetDataSample:
    data = DetDataSample(metainfo=dict(img_shape=shape, batch_input_shape=shape, **meta))
    add_targets(data, number)
    for name in without:
        delattr(data, f"gt_{name}")
    return data


def raw_prediction(name: str, images: int, seed: int = 0) -> torch.Tensor:
    shape = {"scene": (NUM_SCENES,), "depth": (1, *SIZE), "normals": (3, *SIZE)}[name]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, *shape, generator=generator).requires_grad_()


def literal(name: str, prediction, samples) -> float:
    """The loss's formula, one image and cell after the other; 0 if there is no truth."""
    values = []
    for p, each in zip(prediction.detach().double(), samples):
        if f"gt_{name}" not in each:
            continue
        if name == "scene":
            label = int(each.gt_scene.label)
            values.append(-math.log(math.exp(p[label]) / sum(math.exp(x) for x in p)))
            continue
        for i in range(SIZE[0]):
            for j in range(SIZE[1]):
                if name == "depth":
                    d = float(each.gt_depth.depth[0, i, j])
                    if math.isfinite(d) and d > 0:
                        e = abs(float(p[0, i, j]) - math.log(min(max(d, 1e-3), 10.0)))
                        values.append(0.5 * e * e if e < 1 else e - 0.5)
                elif each.gt_normals.mask[0, i, j]:
                    n = p[:, i, j] / p[:, i, j].norm()
                    m = each.gt_normals.normals[:, i, j].double()
                    values.append(float(1 - n @ m + (n - m).square().sum()))
    weight = {"scene": 3, "depth": 3, "normals": 30}[name]
    return weight * sum(values) / len(values) if values else 0.0


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("present", [(0, 1, 2, 3), (1, 3), (2,), ()])
def test_the_loss_is_the_mean_over_what_exists(name, present):
    """loss(batch) = w / n Σ over images and cells with truth; any mixture; 0 if there is none."""
    samples = [sample(i, without=() if i in present else (name,)) for i in range(4)]
    if len(present) > 1 and name == "depth":
        unknown = torch.tensor([0.0, -1.0, math.nan, math.inf])
        samples[1].gt_depth.depth[0, 0, :4] = unknown
    prediction = raw_prediction(name, 4)
    loss = make_task(name).loss(prediction, samples)
    assert loss.item() == pytest.approx(literal(name, prediction, samples), rel=1e-5)
    if present:  # that of the subset alone
        subset = make_task(name).loss(prediction[list(present)], [samples[i] for i in present])
        torch.testing.assert_close(subset, loss)
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert gradient.isfinite().all()
    for i in range(4):
        assert bool(gradient[i].any()) is (i in present)


def test_nothing_is_known_in_an_image_that_has_the_field():
    """An empty mask, depths of 0 and a negative scene: a connected zero."""
    data = sample()
    data.gt_depth.depth[:] = 0
    data.gt_normals.normals[:] = math.nan
    data.gt_normals.mask[:] = False
    data.gt_scene.label[:] = -1
    for name in TASKS:
        prediction = raw_prediction(name, 1)
        loss = make_task(name).loss(prediction, [data])
        assert loss == 0
        assert not torch.autograd.grad(loss, prediction)[0].any()


def test_the_normals_loss_is_three_times_one_minus_the_cosine():
    prediction, data = raw_prediction("normals", 1), sample()
    cosine = F.cosine_similarity(prediction, data.gt_normals.normals[None])
    expected = 30 * (3 * (1 - cosine))[data.gt_normals.mask].mean()
    torch.testing.assert_close(make_task("normals").loss(prediction, [data]), expected)


def test_without_a_mask_every_finite_normal_counts():
    prediction, data = raw_prediction("normals", 1), sample()
    expected = make_task("normals").loss(prediction, [data])
    normals = data.gt_normals.normals.where(data.gt_normals.mask, torch.nan)
    data.gt_normals = PixelData(normals=normals)
    torch.testing.assert_close(make_task("normals").loss(prediction, [data]), expected)


def test_a_vector_of_length_zero_has_a_finite_gradient():
    prediction = torch.zeros(1, 3, *SIZE, requires_grad=True)
    loss = make_task("normals").loss(prediction, [sample()])
    assert torch.autograd.grad(loss, prediction)[0].isfinite().all()


def test_berhu_equals_its_closed_form():
    """|e| up to c, (e² + c²) / (2 c) beyond; continuous, with a continuous derivative, at c."""
    error = torch.tensor([-4.0, -0.5, -0.2, 0.0, 0.3, 0.5, 2.0], dtype=torch.float64)
    c = 0.5
    expected = [(16 + c * c) / (2 * c), 0.5, 0.2, 0.0, 0.3, 0.5, (4 + c * c) / (2 * c)]
    assert berhu(error, c).tolist() == pytest.approx(expected)
    assert berhu(error).tolist() == pytest.approx(
        [2.6 * 4, 0.5, 0.2, 0.0, 0.3, 0.5, (4 + 0.64) / 1.6]
    )
    at = torch.tensor([c - 1e-9, c + 1e-9], dtype=torch.float64, requires_grad=True)
    values = berhu(at, c)
    torch.testing.assert_close(values[0], values[1], atol=1e-8, rtol=0)
    (slopes,) = torch.autograd.grad(values.sum(), at)
    torch.testing.assert_close(slopes, torch.ones(2, dtype=torch.float64), atol=1e-8, rtol=0)
    assert torch.autograd.gradcheck(lambda e: berhu(e, c), error.clone().requires_grad_())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=20))
def test_no_pixel_is_pushed_away_by_the_others(errors):
    """Every gradient of Σ berhu has the sign of its error, and is 5 at most."""
    error = torch.tensor(errors, requires_grad=True)
    (gradient,) = torch.autograd.grad(berhu(error).sum(), error)
    assert (gradient * error >= 0).all()
    assert (gradient.abs() <= 5 * (1 + 1e-5)).all()


def test_berhu_of_a_batch_has_one_threshold():
    task = make_task("depth", loss="berhu")
    samples, prediction = [sample(0), sample(1)], raw_prediction("depth", 2)
    depth = torch.stack([each.gt_depth.depth for each in samples])
    error = prediction - depth.log()
    torch.testing.assert_close(task.loss(prediction, samples), 3 * berhu(error).mean())
    fixed = make_task("depth", loss="berhu", berhu_threshold=0.5)
    torch.testing.assert_close(fixed.loss(prediction, samples), 3 * berhu(error, 0.5).mean())
    perfect = depth.log().requires_grad_()
    loss = task.loss(perfect, samples)
    assert loss == 0
    assert torch.autograd.grad(loss, perfect)[0].isfinite().all()


def test_a_target_of_another_size_is_read_at_the_centres_of_the_cells():
    """Cell (i, j) of h x w takes pixel (⌊(i + .5) H / h⌋, ⌊(j + .5) W / w⌋) of H x W."""
    data, prediction = sample(), raw_prediction("depth", 1)
    big = torch.rand(1, 64, 96) + 0.5
    data.gt_depth = PixelData(depth=big)
    found = make_task("depth").loss(prediction, [data])
    rows, columns = [8, 24, 40, 56], [8, 24, 40, 56, 72, 88]
    data.gt_depth = PixelData(depth=big[:, rows][:, :, columns])
    torch.testing.assert_close(found, make_task("depth").loss(prediction, [data]))


def test_cells_in_the_padding_have_no_truth_and_are_not_returned():
    """An image of 40 x 96 in an input of 64 x 96: 2 of 4 rows have their centres inside."""
    prediction, task = raw_prediction("depth", 1), make_task("depth")
    data = DetDataSample(metainfo=dict(img_shape=(40, 96), batch_input_shape=(64, 96)))
    depth = torch.rand(1, 40, 96) + 0.5
    data.gt_depth = PixelData(depth=depth)
    error = prediction[0, 0, :2] - depth[0][[8, 24]][:, 8::16].log()
    expected = 3 * F.smooth_l1_loss(error, torch.zeros_like(error))
    torch.testing.assert_close(task.loss(prediction, [data]), expected)
    task.write(prediction.detach(), [data])
    torch.testing.assert_close(data.pred_depth.depth, prediction[0, :, :2].detach().exp())


@pytest.mark.parametrize("image", [(100, 70), (97, 96), (104, 65), (112, 80), (1, 9)])
@pytest.mark.parametrize(("stride", "cell"), [(16, 16), (8, 16), (16, 8), (16, 32)])
def test_targets_with_a_stride_are_not_displaced_by_padding(image, stride, cell):
    """Each cell gets the target's pixel that its centre is in, counted in pixels of the image."""
    whole = [-(-side // 32) * 32 for side in image]
    depth = np.arange(image[0] * image[1], dtype=np.float32).reshape(image) + 1
    results = AuxiliaryTargets(stride=stride)(
        dict(gt_depth=depth, img=np.zeros((*image, 3), np.uint8), img_shape=image)
    )
    small = results["gt_depth"]
    data = PackMultiTaskInputs(meta_keys=("img_shape",))(results)["data_samples"]
    assert data.gt_depth.metainfo == {"stride": stride}
    data.set_metainfo(dict(batch_input_shape=whole))
    size = tuple(side // cell for side in whole)
    images, [(found,)], [inside] = targets_of_cells([data], "gt_depth", ["depth"], size)
    assert images == [0]
    assert found.shape == inside.shape == (1, *size)
    for i, j in np.ndindex(size):
        y, x = (i + 0.5) * cell, (j + 0.5) * cell
        assert bool(inside[0, i, j]) == (y < image[0] and x < image[1])
        if inside[0, i, j]:
            assert found[0, i, j] == small[int(y // stride), int(x // stride)]


def test_a_target_with_a_stride_ends_where_it_was_made():
    """An image of 20 rows that was padded to 64 by the pipeline, which makes 64 its shape."""
    data = DetDataSample(metainfo=dict(img_shape=(64, 32), batch_input_shape=(64, 32)))
    data.gt_depth = PixelData(depth=torch.tensor([[[1.0, 2], [3, 4]]]), metainfo=dict(stride=16))
    _, [(found,)], [inside] = targets_of_cells([data], "gt_depth", ["depth"], (4, 2))
    assert found[0, :2].tolist() == [[1, 2], [3, 4]]
    assert inside[0].tolist() == [[True] * 2] * 2 + [[False] * 2] * 2


def test_predictions_are_averages_of_the_features():
    features = torch.randn(2, 6, *SIZE)
    torch.testing.assert_close(make_task("scene").predict(features), features.mean((2, 3)))
    depth = make_task("depth").predict(features)
    torch.testing.assert_close(depth, features.mean(1, keepdim=True))
    normals = make_task("normals").predict(features)
    x, y, z = (features[:, i : i + 2].mean(1) for i in (0, 2, 4))
    torch.testing.assert_close(normals, torch.stack([x, y, z], 1))


def test_what_is_written_into_a_data_sample():
    samples = [sample(0), sample(1)]
    for name in TASKS:
        make_task(name).write(raw_prediction(name, 2).detach(), samples)
    for i, each in enumerate(samples):
        logits = raw_prediction("scene", 2)[i].detach()
        torch.testing.assert_close(each.pred_scene.scores, logits.softmax(0))
        assert each.pred_scene.ranking.tolist() == logits.argsort(descending=True).tolist()
        assert each.pred_scene.ranking.dtype == torch.int64
        assert each.pred_depth.depth.shape == (1, *SIZE)
        assert (each.pred_depth.depth > 0).all()
        length = each.pred_normals.normals.norm(dim=0)
        torch.testing.assert_close(length, torch.ones(SIZE))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_are_float32_under_autocast_and_of_half_precision_features(name, dtype):
    task, data = make_task(name), [sample(0), sample(1, without=(name,))]
    encoding = torch.randn(2, 8, *SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = task.predict(task(encoding).to(dtype))
        loss = task.loss(prediction, data)
    assert prediction.dtype == loss.dtype == torch.float32
    assert torch.equal(loss, task.loss(prediction, data))


def test_the_gradient_of_the_scene_loss_is_softmax_minus_truth():
    samples = [sample(0), sample(1, without=("depth",))]
    task = make_task("scene")
    logits = raw_prediction("scene", 2).detach()
    truth = F.one_hot(torch.tensor([0, 1]), NUM_SCENES)
    expected = 3 / 2 * (logits.softmax(1) - truth)
    logits.requires_grad_()
    (found,) = torch.autograd.grad(task.loss(logits, samples), logits)
    torch.testing.assert_close(found, expected, **TOLERANCE[torch.float32])


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("depth", dict(loss="huber"), "'smooth_l1' or 'berhu'"),
        ("depth", dict(berhu_threshold=0.5), "only with loss='berhu'"),
        ("depth", dict(loss="berhu", berhu_threshold=0), "above 0"),
        ("depth", dict(depth_range=(10, 1)), "0 < min < max"),
        ("normals", dict(feature_channels=7), "multiple of 3"),
    ],
)
def test_wrong_settings_are_refused_by_name(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_task(name, **kwargs)


def test_a_scene_that_the_model_does_not_know_is_an_error():
    data = sample()
    data.gt_scene = LabelData(label=torch.tensor([NUM_SCENES]))
    with pytest.raises(IndexError):
        make_task("scene").loss(raw_prediction("scene", 1), [data])
