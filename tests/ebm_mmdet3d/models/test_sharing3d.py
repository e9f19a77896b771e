"""One model used in several ways: by two threads, as a deep copy, from a file."""

from __future__ import annotations

import copy
import io
import threading

import pytest
import torch

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

import ebm_mmdet3d
from tests.ebm_mmdet3d.models.test_empty_batches3d import (
    batch,
    build,
    cfg_of,
    frames_of,
    predict,
)
from tests.overrides import check_override, overrides


@pytest.mark.parametrize(("ours", "theirs"), overrides(ebm_mmdet3d))
def test_overrides_take_what_they_override(ours, theirs):
    check_override(ours, theirs)


def test_two_threads_get_their_own_features():
    """Both have run the detector before either refines."""
    model = build(cfg_of("pointpillars"))
    frames = frames_of("pointpillars", (False, False))
    alone = [predict(model, [(points, sample.clone())])[0] for points, sample in frames]
    both = threading.Barrier(2, timeout=60)
    inner = model.detector.predict

    def meet(*args, **kwargs):
        both.wait()
        samples = inner(*args, **kwargs)
        both.wait()
        return samples

    model.detector.predict = meet
    found: list = [None, None]

    def work(i: int) -> None:
        points, sample = frames[i]
        (found[i],) = predict(model, [(points, sample.clone())])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, expected in zip(found, alone):
        torch.testing.assert_close(ours.bboxes_3d.tensor, expected.bboxes_3d.tensor)
        torch.testing.assert_close(ours.log_density, expected.log_density)


@pytest.mark.parametrize("name", ["toy", "centerpoint", "sassd_paper"])
def test_a_model_survives_a_file(name):
    model = build(cfg_of(name))
    (before,) = predict(model, frames_of(name, (False,)))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    (after,) = predict(again, frames_of(name, (False,)))
    torch.testing.assert_close(after.bboxes_3d.tensor, before.bboxes_3d.tensor)
    torch.testing.assert_close(after.log_density, before.log_density)


def test_loading_into_a_copy_leaves_the_original_alone():
    model, other = build(cfg_of("toy")), build(cfg_of("toy"), seed=1)
    copied = copy.deepcopy(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copied.load_state_dict(other.detector.state_dict())  # a checkpoint of the detector alone
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, value in copied.detector.state_dict().items():
        assert torch.equal(value, other.detector.state_dict()[name]), name


REFINERS = {
    "ascent": dict(type="GradientAscentRefiner", step_size=[1e-3] * 7, num_steps=3),
    "ascent with a prior": dict(type="GradientAscentRefiner", prior=dict(std=[0.05] * 7)),
    "samples": dict(type="ImportanceMeanRefiner", prior=dict(std=[0.05] * 7), num_samples=16),
    "none": None,
}


@pytest.mark.parametrize("name", REFINERS)
def test_refinement_is_the_same_under_autocast_and_takes_half_precision(name):
    model = build(cfg_of("toy", refiner=REFINERS[name]))
    (expected,) = predict(model, frames_of("toy", (False,)))
    inner = model.detector.extract_feat

    def without_autocast(*args):
        with torch.autocast("cpu", enabled=False):
            return inner(*args)

    model.detector.extract_feat = without_autocast
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = predict(model, frames_of("toy", (False,)))
    assert torch.equal(found.bboxes_3d.tensor, expected.bboxes_3d.tensor)
    for key in set(found.keys()) - {"bboxes_3d"}:
        assert torch.equal(found[key], expected[key]), key
    for dtype in (torch.float16, torch.bfloat16):
        model.energy_head.to(dtype)
        (found,) = predict(model, frames_of("toy", (False,)))
        assert found.log_density.dtype == torch.float32
        assert found.log_density.isfinite().all()
        assert found.bboxes_3d.tensor.isfinite().all()


@pytest.mark.parametrize("name", ["toy", "pointpillars", "second", "sassd_paper"])
def test_tensor_mode_runs_the_detector_and_the_head(name):
    """What counters of operations call; the head's part grows with the width of its trunk."""
    model = build(cfg_of(name))
    data = batch(model, frames_of(name, (False, False)))
    calls = []
    model.energy_head.trunk[0].register_forward_hook(lambda _, __, x: calls.append(len(x)))
    with torch.no_grad():
        _, f = model(*data.values(), mode="tensor")
    assert f.shape == (2, 50)
    assert f.isfinite().all()
    assert calls == [100]


@pytest.mark.parametrize("name", ["train_cfg", "test_cfg"])
def test_a_config_that_nothing_reads_is_refused(name):
    with pytest.raises(ValueError, match=rf"{name}=.*model\.detector\.{name}"):
        build(cfg_of("toy", **{name: dict(pts=dict(score_threshold=0.5))}))
    build(cfg_of("toy", **{name: {}}))
