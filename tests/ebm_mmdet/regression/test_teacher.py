import copy
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.optim import OptimWrapper, OptimWrapperDict

from ebm_mmdet.energy import mdn_teacher_loss, nce_loss
from tests.ebm_mmdet.regression.models import (
    CODECS,
    HEADS,
    PREPROCESSOR,
    WIDTH,
    images,
    middle,
    regressor_config,
)


def config(labels="count", **changes):
    return {
        "type": "TeacherRegressor",
        "data_preprocessor": PREPROCESSOR,
        "student": regressor_config("mixture", labels),
        "teacher": regressor_config("ebm", labels),
        "num_noise": 16,
        **changes,
    }


def build(labels="count", **changes):
    torch.manual_seed(0)
    return MODELS.build(config(labels, **changes))


def batch(n, labels="count"):
    return {"inputs": images(n), "data_samples": middle(labels, n)}


def losses_of(model, n=3, labels="count", seed=0):
    torch.manual_seed(seed)
    return model(**model.data_preprocessor(batch(n, labels), True), mode="loss")


def touched(model, loss):
    grads = torch.autograd.grad(loss, model.parameters(), allow_unused=True, retain_graph=True)
    names = (name for name, _ in model.named_parameters())
    return {name for name, g in zip(names, grads) if g is not None and g.any()}


def test_each_loss_trains_its_own_network_completely():
    """J_NCE: the teacher with its trunk; ½ J_KL + ½ NLL: the student with its own."""
    model = build()
    losses = losses_of(model)
    assert {k for k in losses if "loss" in k} == {"loss_energy", "loss_student"}
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    teacher = {n for n in names if n.startswith("teacher.")}
    # The last bias of f has no gradient, because f is defined up to a constant.
    constant = {"teacher.head.energy.out.bias"}
    assert touched(model, losses["loss_energy"]) - constant == teacher - constant
    assert touched(model, losses["loss_student"]) == names - teacher


def test_losses_are_those_of_the_paper():
    model = build().eval()  # batch statistics would differ between the two computations
    for head in (model.student.head, model.teacher.head):
        head.codec.dequantise = False
    data = model.data_preprocessor(batch(3))
    torch.manual_seed(1)
    found = model(**data, mode="loss")
    torch.manual_seed(1)
    q = model.student.head.density(model.student(data["inputs"]))
    f = model.teacher.head.log_density_fn(model.teacher(data["inputs"]))
    target = model.student.head.encoded_targets(data["data_samples"]).unsqueeze(1)
    points = torch.cat([target, q.draw(16)], 1)
    log_f, log_q = f(points), q.log_prob(points)
    torch.testing.assert_close(found["loss_energy"], nce_loss(log_f, log_q.detach()))
    expected = mdn_teacher_loss(log_f[:, 1:], log_q[:, 1:], log_q[:, 0])
    torch.testing.assert_close(found["loss_student"], expected)
    model.proposal_warm_up = True
    torch.manual_seed(1)
    warm = model(**data, mode="loss")
    torch.testing.assert_close(warm["loss_student"], -log_q[:, 0].mean())
    torch.testing.assert_close(warm["loss_energy"], found["loss_energy"])


def optimizers():
    cfg = {"type": "OptimWrapper", "optimizer": {"type": "Adam", "lr": 1e-3}}
    return {"student": copy.deepcopy(cfg), "teacher": copy.deepcopy(cfg)}


def test_two_optimisers_do_what_one_does():
    one, two = build(), build()
    single = OptimWrapper(torch.optim.Adam(one.parameters(), lr=1e-3))
    double = OPTIM_WRAPPER_CONSTRUCTORS.get("TeacherOptimWrapperConstructor")(optimizers())(two)
    assert isinstance(double, OptimWrapperDict)
    for seed in range(2):
        for model, wrapper in ((one, single), (two, double)):
            torch.manual_seed(seed)
            log = model.train_step(batch(3), wrapper)
            assert {"loss", "loss_energy", "loss_student", "student_nll"} <= set(log)
    for a, b in zip(one.parameters(), two.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_constructor_and_step_name_what_is_missing():
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.get("TeacherOptimWrapperConstructor")
    with pytest.raises(ValueError, match="student=dict"):
        constructor({"student": {}})
    model = build()
    wrong = OptimWrapperDict(a=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    with pytest.raises(KeyError, match="'student' and 'teacher'"):
        model.train_step(batch(1), wrong)


@pytest.mark.parametrize("labels", CODECS)
@pytest.mark.parametrize("n", [1, 2])
def test_labels_of_every_kind(labels, n):
    model = build(labels)
    # One image has no batch statistics at 1x1, but it has at 8x8.
    losses = losses_of(model, n, labels)
    assert all(value.isfinite() for value in losses.values())
    sum(v for k, v in losses.items() if "loss" in k).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_predictions_are_the_students():
    model = build().eval()
    expected = model.student.test_step(batch(2))
    found = copy.deepcopy(model).test_step(batch(2))
    for a, b in zip(found, expected):
        assert torch.equal(a.pred_target, b.pred_target)
        assert torch.equal(a.gt_log_prob, b.gt_log_prob)


@pytest.mark.parametrize("loaded", ["student", "teacher"])
def test_a_network_from_a_checkpoint_gives_the_other_its_statistics(loaded):
    """f and q are densities of the same numbers, also if one of them was trained before."""
    model = build()
    known = getattr(model, loaded).head.codec
    known.fit([7.0], [2.0])
    before = {k: v.clone() for k, v in known.state_dict().items()}
    hook = HOOKS.build({"type": "FitTargetCodecHook"})
    dataset = SimpleNamespace(target_statistics=lambda: {"mean": [20.0], "std": [5.0]})
    loader = SimpleNamespace(dataset=dataset)
    runner = SimpleNamespace(model=model, train_dataloader=loader, val_loop=None)
    hook.before_train(runner)
    for network in (model.student, model.teacher):
        state = network.head.codec.state_dict()
        assert all(torch.equal(state[key], value) for key, value in before.items())
        assert network.head.codec.fitted
    other = model.teacher if loaded == "student" else model.student
    other.head.codec.fit([8.0], [2.0])
    with pytest.raises(ValueError, match="standardised in different ways.*Load one of the two"):
        hook.before_train(runner)


def test_what_does_not_fit_together():
    student, teacher = regressor_config("mixture"), regressor_config("ebm")
    with pytest.raises(TypeError, match="student is a EBMRegressionHead"):
        build(student=teacher)
    with pytest.raises(TypeError, match="expected a EBMRegressionHead"):
        build(teacher=student)
    with pytest.raises(ValueError, match="is the student"):
        build(teacher=regressor_config("ebm_mdn"))
    with pytest.raises(ValueError, match="same codec"):
        build(teacher=regressor_config("ebm", "angle"))
    with pytest.raises(ValueError, match="num_noise"):
        build(num_noise=0)
    assert {"in_channels": WIDTH, **HEADS["mixture"]}.items() <= student["head"].items()
