import copy
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.runner import checkpoint

from ebm_mmdet.regression import RegressionDataSample
from ebm_mmdet.regression.label_check import check_labels
from ebm_mmdet.regression.target_codec import TargetCodec
from tests.ebm_mmdet.regression.models import CODECS, codec


@pytest.mark.parametrize("name", CODECS)
def test_decode_is_the_inverse_of_encode(name):
    c = codec(name)
    low, high = torch.tensor(CODECS[name]["ranges"]).float().T
    y = low + torch.rand(50, c.dim) * (high - low)
    torch.testing.assert_close(c.decode(c.encode(y)), y, rtol=1e-5, atol=1e-4)
    assert c.contains(c.encode(y)).all()


def test_likelihoods_differ_by_the_logs_of_the_scales():
    """NLL_raw - NLL_std = Σ_d log std_d, here for a Gaussian in both coordinates."""
    c = codec("pose")
    y = torch.tensor([[3.0, -4.0, 5.0]])
    standard = torch.distributions.Normal(0.0, 0.5)
    log_p = standard.log_prob(c.encode(y)).sum(-1)
    raw = torch.distributions.Normal(c.mean, 0.5 * c.std)
    expected = raw.log_prob(y).sum(-1)
    torch.testing.assert_close(log_p - c.log_scale, expected)
    assert float(c.log_scale) == pytest.approx(math.log(30 * 20 * 10))


def test_angles_are_radians_and_wrap():
    c = codec("angle")
    z = c.encode(torch.tensor([[-180.0], [179.0], [90.0], [270.0]]))
    torch.testing.assert_close(z[2, 0], torch.tensor(math.pi / 2))
    torch.testing.assert_close(c.decode(z)[3, 0], torch.tensor(-90.0))
    assert c.decode(c.encode(torch.tensor([180.0]))) == -180
    difference = torch.rad2deg(c.difference(z[1], z[0]))
    torch.testing.assert_close(difference, torch.tensor([-1.0]), rtol=0, atol=1e-4)
    torch.testing.assert_close(c.embed(z), c.embed(z + 2 * math.pi), rtol=0, atol=1e-5)
    torch.testing.assert_close(c.unembed(3 * c.embed(z[2])), z[2])


FITTED = {
    "not periodic": {"ranges": [(-180, 180)] * 2, "mean": [10.0, 4.0], "std": [80.0, 2.0]},
    "another period": {"ranges": [(-90, 90), (0, 9)], "periods": [180.0, None]},
    "the same": {
        "ranges": [(-180, 180), (0, 9)],
        "periods": [360.0, None],
        "mean": [0.0, 4.0],
        "std": [1.0, 2.0],
    },
}


@pytest.mark.parametrize("kind", FITTED)
@pytest.mark.parametrize("by", ["torch", "mmengine"])
def test_an_angle_stays_one_with_any_checkpoint(kind, by, monkeypatch):
    """With the mean and std of other coordinates, 179 and -179 degrees would be far apart."""
    given = TargetCodec(**FITTED[kind])
    c = TargetCodec(ranges=[(-180, 180), (0, 9)], periods=[360.0, None])
    said = []
    if by == "torch" and kind == "the same":
        c.load_state_dict(given.state_dict())
    elif by == "torch":
        with pytest.raises(RuntimeError, match=r"trained with other periods.*config are kept"):
            c.load_state_dict(given.state_dict())
    else:
        monkeypatch.setattr(checkpoint, "print_log", lambda text, **_: said.append(text))
        checkpoint.load_state_dict(c, given.state_dict())
        assert any("trained with other periods" in text for text in said) == (kind != "the same")
    z = c.encode(torch.tensor([[179.0, 4.0], [-179.0, 4.0]]))
    difference = torch.rad2deg(c.difference(z[0], z[1]))[0]
    torch.testing.assert_close(difference, torch.tensor(-2.0), rtol=0, atol=1e-3)
    torch.testing.assert_close(c.high[0] - c.low[0], torch.tensor(2 * math.pi))
    # Of numbers that are no angles, the checkpoint's statistics are the model's.
    assert (float(c.mean[1]), float(c.std[1])) == (float(given.mean[1]), float(given.std[1]))


@given(st.floats(-1e4, 1e4), st.floats(-100, 100))
@settings(deadline=None, max_examples=50)
def test_projection_ends_in_the_support_and_keeps_what_is_inside(angle, number):
    c = codec("mixed")
    z = c.encode(torch.tensor([[angle, number]]))
    inside = c.project(z)
    assert c.contains(inside).all()
    assert (inside >= c.low - 1e-6).all()
    assert (inside <= c.high + 1e-6).all()
    torch.testing.assert_close(c.project(inside), inside, rtol=0, atol=2e-6)
    # The angle itself has changed by full turns only.
    turns = (inside - z)[0, 0] / (2 * math.pi)
    assert abs(turns - turns.round()) < 1e-4


def test_integers_stand_for_their_cells():
    c = codec("count")
    y = torch.tensor([[1.0], [40.0]])
    noisy = torch.stack([c.noisy(y, torch.Generator().manual_seed(i)) for i in range(200)])
    assert ((noisy - y).abs() <= 0.5).all()
    assert (noisy - y).std() == pytest.approx(1 / math.sqrt(12), rel=0.1)
    cells = c.cell(y)
    assert cells.shape == (2, 16, 1)
    torch.testing.assert_close(cells.mean(1), y)
    assert c.contains(c.encode(cells)).all()
    torch.testing.assert_close(c.decode(c.low), torch.tensor([0.5]))
    torch.testing.assert_close(c.decode(c.high), torch.tensor([40.5]))
    plain = TargetCodec([(1, 40)])
    assert torch.equal(plain.noisy(y), y)
    assert torch.equal(plain.cell(y)[:, 0], y)


def test_cells_of_several_integers_are_a_latin_hypercube():
    c = TargetCodec([(0, 9), (0, 9), (0, 9)], dequantise=True)
    u = c.cell(torch.zeros(1, 3))[0]
    parts = ((u + 0.5) * 16).floor()
    assert all(sorted(column.tolist()) == list(range(16)) for column in parts.T)
    assert len(parts.unique(dim=0)) == 16
    assert np.corrcoef(u.numpy().T)[0, 1] < 0.6


def test_refused_labels_are_named():
    c = codec("count")
    check_labels(c, torch.tensor([[1], [40]]))
    for bad in (float("nan"), 0.0, 41.0, float("inf")):
        with pytest.raises(ValueError, match=r"the label of b\.png is .* ranges \[\(1\.0, 40\.0\)"):
            check_labels(c, torch.tensor([[2.0], [bad]]), ["a.png", "b.png"])
    with pytest.raises(ValueError, match="one number"):
        check_labels(c, torch.zeros(2, 3))
    check_labels(codec("angle"), torch.tensor([[700.0]]))  # an angle may have any value
    with pytest.raises(ValueError, match="not finite"):
        check_labels(codec("angle"), torch.tensor([[float("nan")]]))
    sample = RegressionDataSample(metainfo={"img_path": "c d.png"})
    for bad in ([float("nan")], [[1.0]], []):
        with pytest.raises(ValueError, match=r"c d\.png"):
            sample.set_gt_target(bad)


@pytest.mark.parametrize("value", [7, 7.0, [7], np.int64(7), np.array([7]), torch.tensor([7])])
def test_labels_of_any_kind_become_float32(value):
    sample = RegressionDataSample()
    sample.set_gt_target(value)
    assert sample.gt_target.dtype == torch.float32
    assert torch.equal(sample.gt_target, torch.tensor([7.0]))


@pytest.mark.parametrize(
    "settings",
    [
        {"ranges": [(1, 1)]},
        {"ranges": []},
        {"ranges": [(0, 1)], "mean": [0.0]},
        {"ranges": [(0, 1)], "mean": [0.0], "std": [0.0]},
        {"ranges": [(0, 1)], "mean": [0.0, 1.0], "std": [1.0, 1.0]},
        {"ranges": [(0, 1)], "periods": [360.0]},
        {"ranges": [(0, 1)], "periods": [None, None]},
    ],
)
def test_settings_that_describe_nothing(settings):
    with pytest.raises(ValueError, match=r"ranges|range|mean|periods"):
        TargetCodec(**settings)


def test_statistics_survive_copies_checkpoints_and_half_precision():
    c = TargetCodec([(-100, 100), (-180, 180)], periods=[None, 360.0])
    assert not c.fitted
    c.fit([3.0, 50.0], [7.0, 60.0])
    assert c.fitted
    torch.testing.assert_close(c.mean, torch.tensor([3.0, 0.0]))
    torch.testing.assert_close(c.std, torch.tensor([7.0, 180 / math.pi]))
    file = io.BytesIO()
    torch.save(c.state_dict(), file)
    file.seek(0)
    loaded = TargetCodec([(-100, 100), (-180, 180)], periods=[None, 360.0])
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert loaded.fitted
    for other in (loaded, copy.deepcopy(c), copy.deepcopy(c).half(), copy.deepcopy(c).bfloat16()):
        assert other.mean.dtype == torch.float32
        assert torch.equal(other.mean, c.mean)
        assert torch.equal(other.std, c.std)
    assert copy.deepcopy(c).double().mean.dtype == torch.float64
