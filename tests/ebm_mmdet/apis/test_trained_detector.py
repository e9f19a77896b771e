"""Every way to load a model, and every way in which a checkpoint does not fit it."""

from __future__ import annotations

import pytest
import torch
from mmdet.apis import inference_detector
from mmengine.config import Config

from ebm_mmdet.apis import add_energy_head, load_detector, load_frozen_detector
from ebm_mmdet.apis.checkpoint_weights import fit_weights
from ebm_mmdet.engine import CheckpointError
from tests.ebm_mmdet.apis.user_project import ONE_STAGE, make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("user") / "my work", ONE_STAGE)


def test_a_file_a_config_and_mmdet_agree(project):
    path, weights = project / "my_detector.py", project / "epoch_12.pth"
    model = load_detector(path, weights, cfg_options={"model.test_cfg.max_per_img": 2})
    assert not model.training
    assert model.dataset_meta["classes"] == ("ape", "bat", "cat")
    cfg = Config.fromfile(path)
    same = load_detector(cfg, str(weights))
    assert cfg.model.test_cfg.max_per_img == 5
    for a, b in zip(model.state_dict().values(), same.state_dict().values()):
        assert torch.equal(a, b)
    image = str(project / "data" / "im 1.png")
    assert len(inference_detector(model, image).pred_instances) == 2
    assert len(inference_detector(same, image).pred_instances) == 5


def test_a_frozen_detector_is_that_of_load_from(project):
    cfg = add_energy_head(Config.fromfile(project / "my_detector.py"), project / "epoch_12.pth")
    loaded = load_frozen_detector(cfg).detector.state_dict()
    plain = torch.load(project / "epoch_12.pth", weights_only=True)["state_dict"]
    assert loaded.keys() == plain.keys()
    assert all(torch.equal(loaded[key], plain[key]) for key in plain)
    cfg.load_from = None
    with pytest.raises(ValueError, match="load_from=None; expected an EBMDetector"):
        load_frozen_detector(cfg)


@pytest.mark.parametrize("kind", ["size", "missing", "unexpected", "no weights"])
def test_a_checkpoint_that_does_not_fit_names_the_tensors(project, tmp_path, kind):
    """A misfit of any kind is a CheckpointError with the file's name, also one of sizes alone."""
    state = torch.load(project / "epoch_12.pth", weights_only=True)["state_dict"]
    name = "bbox_head.retina_cls.bias"
    content = dict(state_dict=state)
    if kind == "size":
        state[name] = torch.zeros(7)
    elif kind == "missing":
        del state[name]
    elif kind == "unexpected":
        name = "bbox_head.extra.bias"
        state[name] = torch.zeros(7)
    else:
        content, name = [1], "no state_dict"
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=rf"other\.pth does not fit the model(?s:.*){name}"):
        load_detector(project / "my_detector.py", tmp_path / "other.pth")
    cfg = add_energy_head(Config.fromfile(project / "my_detector.py"), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=name):
        load_frozen_detector(cfg)


def test_what_is_not_there_or_cannot_be_read_is_said_as_such(project, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.pth"):
        load_detector(project / "my_detector.py", tmp_path / "no.pth")
    (tmp_path / "half.pth").write_bytes((project / "epoch_12.pth").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="is not a whole checkpoint"):
        load_detector(project / "my_detector.py", tmp_path / "half.pth")


@pytest.mark.parametrize("kind", ["bare", "module.", "_orig_mod.", "module._orig_mod.", "ema_"])
def test_a_state_dict_may_come_from_a_wrapper_or_alone(project, tmp_path, kind):
    state = torch.load(project / "epoch_12.pth", weights_only=True)["state_dict"]
    if kind == "ema_":  # mmdet 2 keeps its second copy beside the weights
        content = dict(
            state_dict=state | {f"ema_{k.replace('.', '_')}": v for k, v in state.items()}
        )
    elif kind == "bare":
        content = state
    else:
        content = dict(state_dict={kind + key: value for key, value in state.items()})
    torch.save(content, tmp_path / "other.pth")
    model = load_detector(project / "my_detector.py", tmp_path / "other.pth")
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())


def test_a_misfit_is_one_line(project, tmp_path):
    """Of hundreds of tensors some are named: of another shape, missing, and not the model's."""
    state = torch.load(project / "epoch_12.pth", weights_only=True)["state_dict"]
    state = {key: value[..., None] for key, value in state.items() if "layer1" not in key}
    state["mystery"] = torch.zeros(1)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError) as caught:
        load_detector(project / "my_detector.py", tmp_path / "other.pth")
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 800
    assert "backbone.conv1.weight ([8, 3, 7, 7, 1] instead of [8, 3, 7, 7])" in text
    assert "tensors are missing: backbone.layer1" in text
    assert "1 tensor is not the model's: mystery" in text


def test_a_buffer_that_the_model_fills_itself_may_be_in_a_checkpoint(project):
    """Other versions of a package have saved what this one computes, such as position ids."""
    model = load_detector(project / "my_detector.py", None)
    model.register_buffer("position_ids", torch.arange(4), persistent=False)
    loaded = dict(model.state_dict(), position_ids=torch.zeros(4))
    fit_weights(model, loaded, "other.pth")
    assert model.position_ids.tolist() == [0, 1, 2, 3]
    with pytest.raises(CheckpointError, match="not the model's: more_ids"):
        fit_weights(model, dict(loaded, more_ids=torch.zeros(4)), "other.pth")


def test_a_plain_checkpoint_has_no_head_where_one_is_needed(project, tmp_path):
    weights = project / "epoch_12.pth"
    cfg = add_energy_head(Config.fromfile(project / "my_detector.py"), weights)
    model = load_detector(cfg, weights)
    with pytest.raises(CheckpointError, match=r"epoch_12\.pth has no energy head"):
        load_detector(cfg, weights, needs_head=True)
    torch.save(model.state_dict(), tmp_path / "trained.pth")
    load_detector(cfg, tmp_path / "trained.pth", needs_head=True)
