"""One model in several hands: two threads, a deep copy, a file."""

from __future__ import annotations

import copy
import io
import threading

import pytest
import torch

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from tests.ebm_mmdet3d.models.test_empty_batches3d import build, cfg_of, frames_of, predict


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
