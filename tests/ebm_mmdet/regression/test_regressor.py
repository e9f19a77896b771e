import copy
import io
import sys
import types

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.optim import OptimWrapper
from torch import nn

from ebm_mmdet.regression import PoolNeck, regressor
from tests.ebm_mmdet.energy.contract_checks import check_threads
from tests.ebm_mmdet.regression.models import (
    HEADS,
    PREPROCESSOR,
    build_regressor,
    images,
    middle,
    regressor_config,
)


def batch(n, labels="count"):
    return {"inputs": images(n), "data_samples": middle(labels, n)}


@pytest.mark.parametrize("kind", HEADS)
def test_training_steps_reduce_the_loss(kind):
    torch.manual_seed(0)
    model = build_regressor(kind)
    wrapper = OptimWrapper(torch.optim.Adam(model.parameters(), lr=3e-3))
    losses = [model.train_step(batch(4), wrapper)["loss"].item() for _ in range(25)]
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize("kind", HEADS)
def test_copies_and_checkpoints_predict_the_same(kind):
    model = build_regressor(kind, "pose").eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = build_regressor(kind, "pose").eval()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    expected = torch.stack([s.pred_target for s in model.test_step(batch(2, "pose"))])
    for other in (copy.deepcopy(model), loaded):
        found = torch.stack([s.pred_target for s in other.test_step(batch(2, "pose"))])
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", HEADS)
def test_half_precision_trunk_predicts_in_float32(kind):
    model = build_regressor(kind).eval()
    expected = model.test_step(batch(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.test_step(batch(2))
    half = copy.deepcopy(model)
    half.backbone.to(torch.bfloat16)
    inputs = model.data_preprocessor(batch(2))["inputs"].to(torch.bfloat16)
    with torch.inference_mode():
        found += half(inputs, None, mode="predict")
    for a, b in zip(found, expected + expected):
        assert all(v.dtype == torch.float32 for k, v in a.items() if k.startswith("pred"))
        # Of 40, with features that have lost three digits.
        assert (a.pred_target - b.pred_target).abs().max() < 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        data = model.data_preprocessor(batch(2), True)
        losses = model(**data, mode="loss")
    assert all(v.dtype == torch.float32 for k, v in losses.items() if "loss" in k)


def test_modes_of_forward():
    model = build_regressor("ebm_mdn").eval()
    data = model.data_preprocessor(batch(2))
    assert model(data["inputs"]).shape == (2, 16)
    assert len(model(data["inputs"], mode="predict")) == 2
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert len(model(**data, mode="predict")) == 2
    with pytest.raises(ValueError, match="'tensor', 'loss' or 'predict'"):
        model(data["inputs"], mode="train")


def test_log_prob_for_pictures_is_a_density_in_the_units_of_the_labels():
    for kind in ("ebm", "ebm_mdn", "mixture", "softmax"):
        model = build_regressor(kind).eval()
        inputs = model.data_preprocessor(batch(2))["inputs"]
        y = torch.linspace(0.5, 40.5, 4001).view(-1, 1)
        log_p = model.log_prob(inputs, y)
        assert log_p.shape == (2, 4001)
        mass = torch.trapezoid(log_p.exp(), y[:, 0])
        # By samples, Z itself has a standard deviation of a few percent.
        torch.testing.assert_close(
            mass, torch.ones(2), rtol=0, atol=0.2 if kind == "ebm_mdn" else 0.01
        )


def test_wrong_settings_are_named():
    model = build_regressor("direct")
    model.head.in_channels = 5
    with pytest.raises(ValueError, match=r"set head\.in_channels"):
        model(torch.zeros(1, 3, 16, 16))
    with pytest.raises(TypeError, match="points"):
        build_regressor("direct", test_cfg={"points": "mean"})
    with pytest.raises(ValueError, match="train_cfg"):
        build_regressor("direct", train_cfg={"a": 1})
    with pytest.raises(ValueError, match="'mean' or 'sum'"):
        PoolNeck("max")


def test_a_backbone_of_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmpretrain", None)
    monkeypatch.setattr("ebm_mmdet.regression.regressor.find_spec", lambda name: None)
    config = regressor_config("direct", backbone={"type": "mmpretrain.ConvNeXt"})
    with pytest.raises(ImportError, match="pip install mmpretrain"):
        MODELS.build(config)
    config = regressor_config("direct", backbone={"type": "TimmBackbone", "model_name": "resnet18"})
    with pytest.raises(ImportError, match="pip install timm"):
        MODELS.build(config)


def test_a_backbone_of_timm_by_name(monkeypatch):
    """With a stand-in for timm that has its interface."""
    calls = {}

    def create_model(name, **kwargs):
        calls.update(name=name, **kwargs)
        return nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU())

    timm = types.ModuleType("timm")
    timm.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setattr("ebm_mmdet.regression.timm_backbone.find_spec", lambda name: timm)
    config = regressor_config(
        "direct",
        backbone={"type": "TimmBackbone", "model_name": "convnext_tiny", "drop_path_rate": 0.1},
    )
    model = MODELS.build(config).eval()
    assert calls == {
        "name": "convnext_tiny",
        "pretrained": False,
        "features_only": True,
        "drop_path_rate": 0.1,
    }
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 16)


@pytest.mark.parametrize("kind", ["image", "teacher"])
@pytest.mark.parametrize("mode", ["loss", "predict"])
def test_images_of_several_sizes_in_a_batch_are_reported_once(kind, mode, monkeypatch):
    """They are padded, and what one of them gets depends on the others."""
    said = []
    monkeypatch.setattr(regressor, "print_log", lambda text, *_, **__: said.append(text))
    model = build_regressor("direct")
    if kind == "teacher":
        networks = dict(student=regressor_config("mixture"), teacher=regressor_config("ebm"))
        config = dict(type="TeacherRegressor", data_preprocessor=PREPROCESSOR, num_noise=4)
        model = MODELS.build({**config, **networks})

    def run(*sizes):
        inputs = [images(1, size)[0] for size in sizes]
        samples = middle("count", len(sizes))
        for sample, image in zip(samples, inputs):
            sample.set_metainfo({"img_shape": tuple(image.shape[1:])})
        data = model.data_preprocessor({"inputs": inputs, "data_samples": samples}, True)
        return model(**data, mode=mode)

    run(16, 16)
    run(24, 24)
    assert not said
    run(16, 24)
    run(16, 24)
    assert len(said) == 1
    assert "such as 16 x 16 and 24 x 24 pixels" in said[0]
    assert "Resize" in said[0]


def test_pooling():
    maps = torch.arange(24.0).view(1, 2, 3, 4)
    assert torch.equal(PoolNeck("mean")((maps,)), maps.mean((2, 3)))
    assert torch.equal(PoolNeck("sum")([maps, 2 * maps]), 2 * maps.sum((2, 3)))
    assert torch.equal(PoolNeck("sum", level=0)([maps, 2 * maps]), maps.sum((2, 3)))
    assert torch.equal(PoolNeck()([torch.ones(2, 5)]), torch.ones(2, 5))
    assert PoolNeck("sum")(maps.half().expand(1, 2, 3, 4)).dtype == torch.float32


def test_counting_by_the_sum_is_additive():
    neck = PoolNeck("sum")
    one, two = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(neck(torch.cat([one, two], 3)), neck(one) + neck(two))


def test_threads_share_a_model():
    model = build_regressor("ebm_mdn", "angle").eval()
    inputs = [model.data_preprocessor(batch(n, "angle"))["inputs"] for n in (1, 2)]
    check_threads(
        lambda i: [s.pred_target for s in model(inputs[i % 2], mode="predict")], threads=2, calls=8
    )
