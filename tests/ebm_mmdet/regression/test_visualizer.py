"""Pictures of predictions: the density out of samples, the visualizer and its hook."""

from __future__ import annotations

from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from mmdet.registry import HOOKS, VISUALIZERS
from mmengine.structures import BaseDataElement
from scipy.stats import norm

from ebm_mmdet.regression import visualizer
from ebm_mmdet.regression.pictures import density_on_grid, draw_prediction
from ebm_mmdet.regression.visualizer import RegressionVisualizer  # noqa: F401  registers it

IMAGE = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
HEAD = dict(
    names=("yaw", "pitch", "roll"), units=("°",) * 3, ranges=((-80, 80),) * 3, periods=(None,) * 3
)


def gaussian_samples(count: int, mean: float, std: float) -> np.ndarray:
    return norm.ppf((np.arange(count) + 0.5) / count, mean, std)


def test_the_density_of_two_narrow_peaks_is_not_smoothed_away():
    samples = np.concatenate([gaussian_samples(600, 40, 0.5), gaussian_samples(400, 20, 0.5)])
    grid, density = density_on_grid(samples, (0, 60))
    expected = 0.6 * norm.pdf(grid, 40, 0.5) + 0.4 * norm.pdf(grid, 20, 0.5)
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1)
    assert np.abs(density - expected).max() < 0.2 * expected.max()


def test_the_density_of_a_circle_passes_its_border():
    samples = (gaussian_samples(1000, 180, 20) + 180) % 360 - 180
    _, density = density_on_grid(samples, (-180, 180), 360)
    assert density[0] == pytest.approx(density[-1], rel=0.05)
    assert density[0] == pytest.approx(norm.pdf(0, 0, 20), rel=0.1)


def marginal(figure, panel=1):
    lines = {line.get_label(): line for line in figure.axes[panel].lines}
    return {name: line.get_xdata()[0] for name, line in lines.items() if name[0] != "p"}


def test_truth_mean_and_mode_stand_where_they_are():
    samples = np.concatenate([gaussian_samples(600, 40, 0.5), gaussian_samples(400, 20, 0.5)])
    sample = dict(gt_target=[39.0], pred_target=[40.0], pred_samples=samples[:, None])
    found = marginal(draw_prediction(IMAGE, sample))
    assert found["truth"] == 39.0
    assert found["mean"] == pytest.approx(32, abs=0.1)
    assert found["mode"] == pytest.approx(40, abs=0.5)


@pytest.mark.parametrize("declared", [(0, 360), (-180, 180), (-90, 270)])
@pytest.mark.parametrize("whole_range", [True, False])
def test_angles_are_drawn_inside_the_declared_range(declared, whole_range):
    meta = dict(names=("angle",), ranges=(declared,), periods=(360.0,))
    samples = (gaussian_samples(500, 250, 5)[:, None] + 180) % 360 - 180
    sample = dict(gt_target=[-113.0], pred_target=[248.0], pred_samples=samples)
    figure = draw_prediction(IMAGE, sample, meta, whole_range=whole_range)
    low, high = figure.axes[1].get_xlim()
    found = marginal(figure)
    assert declared[0] <= low < high <= declared[1]
    for name, expected, slack in (("truth", 247, 1e-9), ("mean", 250, 0.1), ("mode", 250, 3)):
        assert low <= found[name] <= high
        assert abs((found[name] - expected + 180) % 360 - 180) < slack
    direct = draw_prediction(IMAGE, dict(gt_target=[600.0], pred_target=[-100.0]), meta)
    low, high = direct.axes[1].get_xlim()
    assert all(low <= value <= high for value in marginal(direct, 1).values())


def test_a_density_of_the_model_itself_is_preferred():
    grid = np.linspace(0, 10, 11)
    sample = dict(
        pred_target=[5.0], pred_samples=np.full((9, 1), 5.0), density_grid=grid,
        pred_density=norm.pdf(grid, 3, 1),
    )  # fmt: skip
    assert marginal(draw_prediction(IMAGE, sample))["mode"] == 3.0


def test_two_poses_and_their_mode():
    pose, mirrored = np.array([40.0, -20.0, 10.0]), np.array([-40.0, 20.0, 10.0])
    rng = np.random.default_rng(0)
    samples = np.concatenate(
        [pose + rng.normal(size=(300, 3)), mirrored + rng.normal(size=(200, 3))]
    )
    sample = dict(
        gt_target=mirrored, pred_target=pose, pred_samples=samples, oracle_weights=[0.5, 0.5],
        oracle_means=[pose, mirrored], oracle_stds=np.ones((2, 3)),
    )  # fmt: skip
    figure = draw_prediction(IMAGE, sample, HEAD, "two poses")
    assert len(figure.axes) == 5  # image, three marginals, the map
    modes = [marginal(figure, 1 + d)["mode"] for d in range(3)]
    np.testing.assert_allclose(modes, pose, atol=2)


@pytest.mark.parametrize(
    "sample",
    [
        dict(pred_target=[1.0]),
        dict(gt_target=[1.0]),
        dict(gt_target=[1.0, 2.0], pred_target=[1.0, 2.0]),
        dict(pred_target=[1.0], pred_samples=np.ones((1, 1))),
        dict(gt_target=[900.0], pred_target=[1.0], pred_samples=np.ones((50, 1))),
    ],
)
def test_whatever_is_there_is_drawn(sample):
    meta = dict(names=("y",), ranges=((0.0, 10.0),)) if len(sample) < 3 else None
    dims = len(next(iter(sample.values())))
    draw_prediction(IMAGE, sample, meta if dims == 1 else None).canvas.draw()


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="neither gt_target nor pred_target"):
        draw_prediction(IMAGE, {})


def data_sample() -> BaseDataElement:
    sample = BaseDataElement(metainfo=dict(img_path="a folder/b.png"))
    sample.gt_target, sample.pred_target = torch.tensor([2.0]), torch.tensor([2.5])
    sample.pred_samples = torch.linspace(0, 5, 50)[:, None]
    return sample


def test_the_visualizer_writes_the_picture_that_it_returns(tmp_path):
    drawer = VISUALIZERS.build(dict(type="RegressionVisualizer", name="regression", dpi=50))
    path = tmp_path / "with blanks" / "a.png"
    drawn = drawer.add_datasample("x", IMAGE, data_sample(), out_file=str(path))
    np.testing.assert_array_equal(mmcv.imread(path, channel_order="rgb"), drawn)
    hidden = drawer.add_datasample("x", IMAGE, data_sample(), draw_gt=False)
    assert not np.array_equal(hidden, drawn)
    plain = drawer.add_datasample("x", IMAGE)
    np.testing.assert_array_equal(plain, IMAGE)


class Recorder:
    def __init__(self):
        self.calls = []

    def add_datasample(self, name, image, **rest):
        self.calls.append((name, image, rest))


def test_the_hook_draws_the_networks_inputs_of_a_test(tmp_path):
    runner = SimpleNamespace(visualizer=Recorder(), work_dir=str(tmp_path), timestamp="now", iter=3)
    image = torch.from_numpy(IMAGE[..., ::-1].copy()).permute(2, 0, 1)  # BGR
    batch, outputs = dict(inputs=[image] * 2), [data_sample()] * 2
    hook = HOOKS.build(
        dict(type="RegressionVisualizationHook", draw=True, test_out_dir="p", max_pictures=3)
    )
    hook.before_test(runner)
    hook.after_test_iter(runner, 0, batch, outputs)
    hook.after_test_iter(runner, 1, batch, outputs)
    assert len(runner.visualizer.calls) == 3
    _, drawn, rest = runner.visualizer.calls[2]
    np.testing.assert_array_equal(drawn, IMAGE)
    assert rest["out_file"] == str(tmp_path / "now" / "p" / "0002_b.png")
    hook.after_val_iter(runner, 50, batch, outputs)
    hook.after_val_iter(runner, 51, batch, outputs)
    assert [call[0] for call in runner.visualizer.calls[3:]] == ["val_img"]


def test_two_processes_do_not_overwrite_each_others_pictures(tmp_path):
    """Images of one file, or of several folders, may have the same name."""
    names = []
    for rank in (0, 1):
        runner = SimpleNamespace(visualizer=Recorder(), work_dir=str(tmp_path), timestamp="now")
        hook = HOOKS.build(
            dict(type="RegressionVisualizationHook", draw=True, test_out_dir="p", max_pictures=9)
        )
        hook.before_test(runner)
        for number in range(3):  # as mmengine's sampler deals them out
            sample = BaseDataElement(metainfo=dict(img_path="a.h5#7", sample_idx=2 * number + rank))
            hook.after_test_iter(runner, number, dict(inputs=[torch.zeros(3, 4, 4)]), [sample])
        names += [rest["out_file"] for _, _, rest in runner.visualizer.calls]
    assert len({*names}) == 6


def test_the_hook_says_once_that_it_has_drawn_enough(monkeypatch):
    said = []
    monkeypatch.setattr(visualizer, "print_log", lambda text, *_: said.append(text))
    runner = SimpleNamespace(visualizer=Recorder())
    batch = dict(inputs=[torch.zeros(3, 4, 4)] * 2), [data_sample()] * 2
    hook = HOOKS.build(dict(type="RegressionVisualizationHook", draw=True, max_pictures=2))
    for test in (1, 2):
        hook.before_test(runner)
        hook.after_test_iter(runner, 0, *batch)
        assert len(said) == test - 1  # no image has gone without a picture yet
        for number in (1, 2):
            hook.after_test_iter(runner, number, *batch)
        assert len(said) == test
    assert "2 pictures are drawn" in said[0]
    assert "visualization.max_pictures" in said[0]


def test_a_silent_hook_draws_nothing():
    runner = SimpleNamespace(visualizer=Recorder())
    hook = HOOKS.build(dict(type="RegressionVisualizationHook"))
    hook.after_test_iter(runner, 0, dict(inputs=[]), [data_sample()])
    hook.after_val_iter(runner, 0, dict(inputs=[]), [data_sample()])
    assert not runner.visualizer.calls
