"""One model, used the ways users do: threads, copies, pickles, half precision, FLOP counters."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.analysis import get_model_complexity_info

import ebm_mmdet
from ebm_mmdet.energy import RefinementResult, evaluate_only
from tests.ebm_mmdet.models.toys import batch, build, ebm_cfg
from tests.overrides import check_override, overrides
from tests.tolerances import TOLERANCE

CANDIDATES = dict(type="EnergyGuidedNMS", score_thr=0.2, max_per_img=20)
PROPOSAL = dict(
    type="ProposalEBMBBoxHead",
    proposal=dict(num_components=4),
    reference_noise=dict(type="GaussianMixtureNoise", sigmas=[0.075, 0.15, 0.3], dim=4),
    objective=dict(type="ProposalObjective", num_noise=7),
)


def images(seed: int, model) -> dict:
    torch.manual_seed(seed)
    data = batch(model, num_items=(2,), shape=(3, 128, 160))
    data["inputs"] = torch.randn_like(data["inputs"])
    return data


def predict(model, data, **kwargs):
    with torch.no_grad():
        samples = model.predict(data["inputs"], copy.deepcopy(data["data_samples"]), **kwargs)
    return [sample.pred_instances for sample in samples]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        for key in ("bboxes", "scores", "log_density"):
            torch.testing.assert_close(one[key], other[key], **TOLERANCE[torch.float32])


@pytest.mark.parametrize("candidates", [None, CANDIDATES])
def test_threads_do_not_see_each_other(candidates):
    """predict(x) is the same function of x, while other threads predict."""
    model = build(ebm_cfg(candidates=candidates))
    inputs = [images(seed, model) for seed in range(4)]
    expected = [predict(model, data) for data in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for found, alone in zip(pool.map(partial(predict, model), inputs), expected):
                assert_same(found, alone)


def test_a_refiner_per_call_leaves_the_models_own_alone():
    model = build(ebm_cfg())
    data = images(0, model)
    own = model.refiner
    assert (predict(model, data)[0].accepted_steps > 0).any()
    plain = build(ebm_cfg(refiner=None))
    plain.load_state_dict(model.state_dict())
    still = predict(model, data, refiner=evaluate_only)
    assert (still[0].accepted_steps == 0).all()
    assert_same(still, predict(plain, data))
    assert model.refiner is own


def test_the_refiner_is_given_tensors():
    """A refiner of the user is called according to the contract."""
    calls = []

    def refiner(log_density_fn, y0, *, covariance=None, num_per_image=None):
        calls.append((y0.shape, covariance, num_per_image))
        return RefinementResult(y0, y0[:, 0], torch.zeros(len(y0), dtype=torch.long))

    model = build(ebm_cfg())
    found = predict(model, batch(model), refiner=refiner)
    ((shape, covariance, counts),) = calls
    assert shape == (sum(len(each) for each in found), 4)
    assert covariance is None
    assert counts == [len(each) for each in found]


def test_a_selection_without_nms_changes_nothing_on_the_detector():
    model = build(ebm_cfg(candidates=CANDIDATES))
    before = copy.deepcopy(dict(model.detector.roi_head.test_cfg))
    view = model.candidates.without_nms(model.detector)
    assert dict(model.detector.roi_head.test_cfg) == before
    assert view.roi_head.test_cfg.nms is None
    assert view.backbone is model.detector.backbone
    assert view.roi_head.bbox_head is model.detector.roi_head.bbox_head
    assert {id(p) for p in view.parameters()} == {id(p) for p in model.detector.parameters()}


def test_the_whole_model_can_be_saved_and_loaded():
    model = build(ebm_cfg())
    data = images(0, model)
    expected = predict(model, data)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    assert_same(predict(torch.load(buffer, weights_only=False), data), expected)


def test_loading_into_a_copy_leaves_the_original_alone():
    model = build(ebm_cfg())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    twin = copy.deepcopy(model)
    plain = build(ebm_cfg(), seed=1).detector.state_dict()
    twin.load_state_dict(plain)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    shared = "roi_head.bbox_head.shared_fcs.0.weight"
    assert torch.equal(twin.energy_head.trunk[0].weight, plain[shared])
    assert_same(predict(model, images(0, model)), predict(build_like(before), images(0, model)))


def build_like(state):
    model = build(ebm_cfg())
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("name", ["fcos", "faster_rcnn"])
@pytest.mark.parametrize("standardize", [False, True])
def test_a_model_in_bfloat16_predicts_and_refines(name, standardize):
    """The same function f, of rounded weights and maps: boxes move, uphill, and stay close."""
    model = build(ebm_cfg(name, head=dict(standardize=standardize)))
    half = copy.deepcopy(model).bfloat16()
    data = images(0, model)
    if name == "faster_rcnn":  # mmdet's own RoI pooling takes no bfloat16
        half.detector.float()
        half_inputs = data["inputs"]
    else:
        half_inputs = data["inputs"].bfloat16()
    found = predict(half, {**data, "inputs": half_inputs})[0]
    assert found.bboxes.dtype == torch.float32
    assert found.log_density.dtype == torch.float32
    assert torch.isfinite(found.bboxes).all()
    assert (found.accepted_steps > 0).any()
    still = predict(half, {**data, "inputs": half_inputs}, refiner=evaluate_only)[0]
    assert (found.log_density >= still.log_density).all()


@pytest.mark.parametrize("head", [{}, PROPOSAL])
def test_a_head_in_bfloat16_trains(head):
    model = build(ebm_cfg(head=dict(standardize=True, **head))).train()
    model.energy_head.bfloat16()
    data = batch(model, training=True)
    loss = model.loss(data["inputs"], data["data_samples"])["loss_energy"]
    loss.backward()
    assert loss.dtype == torch.float32
    for parameter in model.energy_head.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet"])
def test_a_counter_of_operations_sees_the_head(name):
    """What mmdet's tools/analysis_tools/get_flops.py does; the head's linear layers are counted."""
    model = build(ebm_cfg(name))
    data = batch(model, num_items=(1,), shape=(3, 64, 64))
    model.forward = partial(model.forward, data_samples=data["data_samples"], mode="tensor")
    found = get_model_complexity_info(model, None, inputs=data["inputs"], show_table=False)
    alone = model.detector
    alone.forward = partial(alone.forward, data_samples=data["data_samples"], mode="tensor")
    base = get_model_complexity_info(alone, None, inputs=data["inputs"], show_table=False)
    layers = [*model.energy_head.trunk, model.energy_head.fc_energy]
    expected = 100 * sum(layer.in_features * layer.out_features for layer in layers)
    assert found["flops"] - base["flops"] == pytest.approx(expected, rel=0.02)
    assert found["params"] > base["params"]


@pytest.mark.parametrize("name", ["train_cfg", "test_cfg"])
def test_a_config_that_nothing_reads_is_refused(name):
    with pytest.raises(ValueError, match=rf"{name}=.*model\.detector\.{name}"):
        build(ebm_cfg(**{name: dict(rcnn=dict(score_thr=0.5))}))
    build(ebm_cfg(**{name: None}))
    build(ebm_cfg(**{name: {}}))


@pytest.mark.parametrize(("ours", "theirs"), overrides(ebm_mmdet))
def test_overrides_take_what_they_override(ours, theirs):
    check_override(ours, theirs)


REFINERS = {
    "ascent": dict(type="GradientAscentRefiner", step_size=1e-2, num_steps=3),
    "ascent with a prior": dict(type="GradientAscentRefiner", prior=dict(std=[0.05] * 4)),
    "samples of a prior": dict(type="ImportanceMeanRefiner", prior=dict(std=[0.05] * 4)),
    "samples of a prior per box": dict(type="ImportanceMeanRefiner", prior=dict(std="per_box")),
    "samples of a proposal": dict(type="ProposalRefiner", num_samples=8),
    "climbs from a proposal": dict(type="ProposalRefiner", climb=dict(step_size=1e-3)),
    "none": None,
}


def with_refiner(name: str, detector: str = "fcos") -> dict:
    head = PROPOSAL if "proposal" in name else {}
    return ebm_cfg(detector, head=head, refiner=REFINERS[name])


@pytest.mark.parametrize("name", REFINERS)
def test_refinement_is_the_same_under_autocast(name):
    """Of the same maps and detections: every field, to the last bit."""
    model = build(with_refiner(name))
    data = images(0, model)
    with torch.no_grad():
        with model.capture_features() as features:
            samples = model.detector.predict(data["inputs"], data["data_samples"])
        feats = model.energy_head.prepare(features())
        for sample in samples:
            found = sample.pred_instances
            found.box_std = torch.full((len(found), 4), 0.05)
        expected = model.refine(feats, copy.deepcopy(samples), True)
        with torch.autocast("cpu", torch.bfloat16):
            again = model.refine(feats, copy.deepcopy(samples), True)
    for one, other in zip(again, expected):
        one, other = one.pred_instances, other.pred_instances
        assert set(one.keys()) == set(other.keys())
        for key in one.keys():  # noqa: SIM118
            assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize("name", REFINERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_refiner_takes_a_head_in_half_precision(name, dtype):
    model = build(with_refiner(name))
    model.energy_head.to(dtype)
    data = images(0, model)
    inner = model.detector.predict

    def with_variances(*args, **kwargs):
        samples = inner(*args, **kwargs)
        for sample in samples:
            sample.pred_instances.box_std = torch.full((len(sample.pred_instances), 4), 0.05)
        return samples

    model.detector.predict = with_variances
    for found in predict(model, data):
        assert len(found) > 0
        for key in ("bboxes", "log_density"):
            assert found[key].dtype == torch.float32
            assert found[key].isfinite().all()


def test_a_detector_brings_its_own_preprocessor():
    """Also where its config does not have one, such as that of a wrapper in a wrapper."""
    inner = ebm_cfg("fcos")
    model = build({**ebm_cfg("fcos", feature_source="detector.neck"), "detector": inner})
    own = MODELS.build(inner["detector"]["data_preprocessor"])
    assert type(model.data_preprocessor) is type(own)
    assert torch.equal(model.data_preprocessor.mean, own.mean)
    assert model.data_preprocessor is model.detector.data_preprocessor
    data = images(0, model)
    found = predict(model, data)
    assert (found[0].accepted_steps > 0).any()
    assert_same(predict(copy.deepcopy(model), data), found)
