"""The other six losses: definitions, algebra, extremes, reductions (NCE: test_nce_loss)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebm_mmdet.energy import (
    dsm_loss,
    kld_is_loss,
    mcmc_loss,
    mdn_teacher_loss,
    ml_is_loss,
    proposal_kl_loss,
    score_matching_loss,
)

close = torch.testing.assert_close


def normal(*shape, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def inputs(name, n=5, m=7, d=3, seed=0):
    """The tensors of each loss, random, float64."""
    shapes = {
        "ml_is": [(n, 1 + m), (n, 1 + m)],
        "kld_is": [(n, m), (n, m), (n, m)],
        "kld_is_self": [(n, m), (n, m), (n, m)],
        "mcmc": [(n,), (n, m)],
        "score_matching": [(n, d), (n,)],
        "dsm": [(n, m, d), (n, m, d)],
        "dsm_scaled": [(n, m, d), (n, m, d)],
        "proposal_kl": [(n, m), (n, m)],
        "mdn_teacher": [(n, m), (n, m), (n,)],
    }[name]
    return [normal(*shape, seed=seed + i).requires_grad_() for i, shape in enumerate(shapes)]


SIGMA = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
LOSSES = {
    "ml_is": ml_is_loss,
    "kld_is": kld_is_loss,
    "kld_is_self": lambda *t, **kw: kld_is_loss(*t, self_normalize=True, **kw),
    "mcmc": mcmc_loss,
    "score_matching": score_matching_loss,
    "dsm": lambda *t, **kw: dsm_loss(*t, SIGMA, **kw),
    "dsm_scaled": lambda *t, **kw: dsm_loss(*t, SIGMA, scale_by_sigma=True, **kw),
    "proposal_kl": proposal_kl_loss,
    "mdn_teacher": mdn_teacher_loss,
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def evaluated(name, tensors, **arguments):
    return LOSSES[name](*tensors, reduction="none", **arguments)


def test_ml_is_from_its_definition():
    log_f, log_q = inputs("ml_is")
    z = (log_f[:, 1:] - log_q[:, 1:]).exp().mean(1)
    close(evaluated("ml_is", (log_f, log_q)), z.log() - log_f[:, 0])


def test_kld_is_from_its_definition():
    log_f, log_q, log_p = inputs("kld_is")
    z = (log_f - log_q).exp().mean(1)
    ratio = (log_p - log_q).exp()
    close(evaluated("kld_is", (log_f, log_q, log_p)), z.log() - (ratio * log_f).mean(1))
    ratio = ratio / ratio.sum(1, keepdim=True)
    close(evaluated("kld_is_self", (log_f, log_q, log_p)), z.log() - (ratio * log_f).sum(1))


def test_mcmc_score_matching_and_dsm_from_their_definitions():
    target, samples = inputs("mcmc")
    close(evaluated("mcmc", (target, samples)), samples.mean(1) - target)
    grad, trace = inputs("score_matching")
    close(evaluated("score_matching", (grad, trace)), trace + 0.5 * grad.norm(dim=1) ** 2)
    grad, noise = inputs("dsm")
    terms = (grad + noise / SIGMA**2) ** 2
    close(evaluated("dsm", (grad, noise)), terms.sum(2).mean(1))
    close(evaluated("dsm_scaled", (grad, noise)), (SIGMA**2 * terms).sum(2).mean(1))
    close(dsm_loss(grad, noise, 0.5), dsm_loss(grad, noise, [0.5, 0.5, 0.5]))


def test_proposal_losses_from_their_definitions():
    log_f, log_q, log_q_target = inputs("mdn_teacher")
    kl = (log_f - log_q).exp().mean(1).log()
    close(evaluated("proposal_kl", (log_f, log_q)), kl)
    close(evaluated("mdn_teacher", (log_f, log_q, log_q_target)), 0.5 * kl - 0.5 * log_q_target)


@pytest.mark.parametrize("name", ["ml_is", "kld_is_self", "mcmc"])
@given(shift=st.floats(-1e3, 1e3), seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_constant_per_target_changes_nothing(name, shift, seed):
    tensors = inputs(name, seed=seed)
    shifts = shift * torch.arange(1, 6, dtype=torch.float64)
    count = 2 if name == "mcmc" else 1
    moved = [t + shifts.view(-1, *[1] * (t.dim() - 1)) for t in tensors[:count]] + tensors[count:]
    close(evaluated(name, moved), evaluated(name, tensors), rtol=1e-8, atol=1e-8)


@given(shift=st.floats(-1e2, 1e2), seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_constant_changes_published_kld_is_by_what_its_weights_lack(shift, seed):
    log_f, log_q, log_p = inputs("kld_is", seed=seed)
    expected = shift * (1 - (log_p - log_q).exp().mean(1))
    change = evaluated("kld_is", (log_f + shift, log_q, log_p)) - evaluated(
        "kld_is", (log_f, log_q, log_p)
    )
    close(change, expected, rtol=1e-8, atol=1e-8)


def test_constant_leaves_the_gradient_of_the_proposal_alone():
    log_f, log_q = inputs("proposal_kl")
    gradients = [
        torch.autograd.grad(proposal_kl_loss(log_f + c, log_q), log_q)[0] for c in (0.0, 10.0)
    ]
    close(gradients[0], gradients[1])


@pytest.mark.parametrize("name", ["ml_is", "kld_is", "kld_is_self", "mcmc", "dsm", "proposal_kl"])
def test_order_and_multiplicity_of_samples_do_not_matter(name):
    """Every loss over samples is a mean of them: a shuffle or a copy of all changes nothing."""
    tensors = inputs(name)
    first = 1 if name == "ml_is" else 0
    count = max(t.shape[1] for t in tensors if t.dim() > 1)
    order = torch.randperm(count - first, generator=torch.Generator().manual_seed(1)) + first
    head = torch.arange(first)
    for index in (torch.cat([head, order]), torch.cat([head, order, order])):
        changed = [t[:, index] if t.dim() > 1 else t for t in tensors]
        close(evaluated(name, changed), evaluated(name, tensors), rtol=1e-12, atol=1e-12)


def test_column_of_the_target_in_log_q_is_not_read():
    log_f, log_q = inputs("ml_is")
    poisoned = log_q.detach().clone()
    poisoned[:, 0] = math.nan
    assert torch.equal(ml_is_loss(log_f, poisoned), ml_is_loss(log_f, log_q))


def test_gradients_in_closed_form():
    log_f, log_q = inputs("ml_is")
    grad_f, grad_q = torch.autograd.grad(ml_is_loss(log_f, log_q, reduction="sum"), (log_f, log_q))
    weights = (log_f - log_q)[:, 1:].softmax(1)
    close(grad_f, torch.cat([-torch.ones_like(weights[:, :1]), weights], dim=1))
    close(grad_q, torch.cat([torch.zeros_like(weights[:, :1]), -weights], dim=1))

    log_f, log_q = inputs("proposal_kl")
    loss = proposal_kl_loss(log_f, log_q, reduction="sum")
    (grad_q,) = torch.autograd.grad(loss, log_q)
    close(grad_q, -(log_f - log_q).softmax(1))


@pytest.mark.parametrize("name", ["proposal_kl", "mdn_teacher"])
def test_the_teacher_gets_no_gradient(name):
    tensors = inputs(name)
    LOSSES[name](*tensors).backward()
    assert tensors[0].grad is None
    assert all(t.grad is not None for t in tensors[1:])


@every_loss
def test_gradcheck(name):
    weight = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    tensors = inputs(name, n=3, m=4)
    fixed = 1 if name in ("proposal_kl", "mdn_teacher") else 0
    tensors[:fixed] = [t.detach() for t in tensors[:fixed]]
    assert torch.autograd.gradcheck(
        lambda *t: LOSSES[name](*t, weight=weight, avg_factor=3.0), tensors
    )


@pytest.mark.parametrize("name", ["ml_is", "kld_is", "kld_is_self", "mcmc", "proposal_kl"])
@pytest.mark.parametrize(
    "row",
    [
        [1e4, -1e4, 1e4],
        [-1e4, 1e4, -1e4],
        [1e4, 1e4, 1e4],
        [0.0, 0.0, 1e4],
        [0.0, 0.0, 0.0],
        [-1e4, -1e4, -1e4],
    ],
)
@pytest.mark.parametrize("log_q", [0.0, -1e3, 1e3])
def test_extremes_are_finite_and_the_same_in_both_precisions(name, row, log_q):
    f = torch.tensor([row])
    q = torch.full_like(f, log_q)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaf = f.to(dtype, copy=True).requires_grad_()
        other = q.to(dtype, copy=True).requires_grad_()
        label = [torch.full_like(other, -1.0)] if name.startswith("kld_is") else []
        if name == "mcmc":
            loss = mcmc_loss(leaf[:, 0], leaf[:, 1:])
        else:
            loss = LOSSES[name](leaf, other, *label)
        loss.backward()
        gradients = [g for g in (leaf.grad, other.grad) if g is not None]
        assert loss.isfinite()
        assert gradients
        assert all(g.isfinite().all() for g in gradients)
        results.append(loss.double())
    close(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_small_loss_beside_large_values_is_exact():
    """(f_1 - f_0) is exact in float32 where f itself leaves no digits for the loss."""
    loss = ml_is_loss(torch.tensor([[10000.0, 9999.5]]), torch.zeros(1, 2))
    assert loss.item() == pytest.approx(-0.5, abs=1e-6)
    loss = kld_is_loss(*(torch.tensor([row]) for row in ([1e4 + 0.5, 1e4], [0.0, 0], [0.0, 0])))
    expected = math.log((1 + math.exp(-0.5)) / 2) + 0.25
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_single_sample():
    """M = 1: log Z is the one logit, and nothing is undefined."""
    one = torch.tensor([[1.5]], requires_grad=True)
    zero = torch.zeros(1, 1)
    assert ml_is_loss(torch.cat([zero, one], 1), torch.zeros(1, 2)).item() == 1.5
    assert kld_is_loss(one, zero, zero).item() == 0
    assert proposal_kl_loss(zero, one).item() == -1.5
    assert mcmc_loss(zero[0], one).item() == 1.5


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(name, dtype):
    tensors = [t.detach().to(dtype) for t in inputs(name)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name](*tensors)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, LOSSES[name](*(t.float() for t in tensors)))


def test_masked_samples_do_not_exist():
    valid = torch.tensor([[True, True, False, True, False, True, True, False]])
    log_f, log_q = inputs("ml_is", n=1)
    poisoned = log_f.detach().masked_fill(~valid, torch.nan).requires_grad_()
    loss = ml_is_loss(poisoned, log_q, valid=valid)
    close(loss, ml_is_loss(log_f[valid][None], log_q[valid][None]))
    (grad,) = torch.autograd.grad(loss, poisoned)
    assert (grad[~valid] == 0).all()

    target, samples = inputs("mcmc", n=1, m=8)
    poisoned = samples.detach().masked_fill(~valid, torch.inf).requires_grad_()
    loss = mcmc_loss(target, poisoned, valid=valid)
    close(loss, mcmc_loss(target, samples[valid][None]))
    (grad,) = torch.autograd.grad(loss, poisoned)
    assert (grad[~valid] == 0).all()


@pytest.mark.parametrize("name", ["kld_is", "kld_is_self", "proposal_kl"])
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("offset", [0.0, -1e4])
def test_padding_may_hold_anything(name, junk, offset):
    """L with padding = L of the samples that exist, and 0 where none does; likewise gradients."""
    keep = torch.tensor([True, True, False, True, False, True, False])
    valid = torch.stack([keep, torch.zeros_like(keep), torch.ones_like(keep)])
    tensors = inputs(name, n=3)
    tensors[0] = (tensors[0].detach() + offset).requires_grad_()
    poisoned = [t.detach().masked_fill(~valid, junk).requires_grad_() for t in tensors]
    each = evaluated(name, poisoned, valid=valid)
    assert each[1] == 0
    close(each[:1], evaluated(name, [t[:1, keep] for t in tensors]))
    close(each[2:], evaluated(name, [t[2:] for t in tensors]))
    learned = 1 if name == "proposal_kl" else 0
    (grad,) = torch.autograd.grad(each.sum(), poisoned[learned])
    assert (grad[~valid] == 0).all()
    assert grad.isfinite().all()
    whole = evaluated(name, [t[2:] for t in tensors]).sum()
    (expected,) = torch.autograd.grad(whole, tensors[learned])
    close(grad[2], expected[2])


def test_target_without_samples_costs_nothing():
    log_f, log_q = inputs("ml_is", n=2)
    valid = torch.ones_like(log_f, dtype=torch.bool)
    valid[0, 1:] = False
    each = ml_is_loss(log_f, log_q, reduction="none", valid=valid)
    (grad,) = torch.autograd.grad(each.sum(), log_f)
    assert each[0] == 0
    assert (grad[0] == 0).all()
    close(each[1], ml_is_loss(log_f[1:], log_q[1:]))
    assert valid[1].all(), "the caller's mask must not be written to"

    target, samples = inputs("mcmc", n=2)
    valid = torch.tensor([[False], [True]]).expand(2, 7)
    each = mcmc_loss(target, samples, reduction="none", valid=valid)
    assert each[0] == 0
    close(each[1], mcmc_loss(target[1:], samples[1:]))


@every_loss
def test_reductions(name):
    tensors = inputs(name, n=4)
    each = evaluated(name, tensors)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)
    weighted = each * weight
    loss = LOSSES[name]
    assert each.shape == (4,)
    close(loss(*tensors), each.mean())
    close(loss(*tensors, reduction="sum"), each.sum())
    close(loss(*tensors, weight=weight), weighted.sum() / 4)
    close(loss(*tensors, weight=weight, reduction="none"), weighted)
    close(loss(*tensors, weight=weight, avg_factor=3.0), weighted.sum() / 3, rtol=1e-6, atol=0)
    last = tensors[-1]
    (grad,) = torch.autograd.grad(loss(*tensors, weight=weight), last)
    assert (grad[1] == 0).all()
    assert (grad[0] != 0).any()


@every_loss
@pytest.mark.parametrize(
    ("reduction", "avg_factor"), [("mean", None), ("mean", 0.0), ("mean", 5.0), ("sum", None)]
)
def test_no_targets_give_a_zero_connected_to_the_graph(name, reduction, avg_factor):
    parameter = torch.ones((), requires_grad=True)
    tensors = [parameter * t for t in inputs(name, n=0)]
    loss = LOSSES[name](*tensors, reduction=reduction, avg_factor=avg_factor)
    assert loss.item() == 0
    (grad,) = torch.autograd.grad(loss, parameter)
    assert grad == 0


def test_refuses_what_has_no_meaning():
    m, one = torch.zeros(5, 7), torch.zeros(5)
    cases = [
        (ml_is_loss, (m, m[:, 1:]), "positive in column 0"),
        (ml_is_loss, (m[:, :1], m[:, :1]), "at least one sample"),
        (kld_is_loss, (m, m, m[:, 1:]), r"log_p \(5, 6\)"),
        (kld_is_loss, (m[:, :0], m[:, :0], m[:, :0]), "M ≥ 1"),
        (proposal_kl_loss, (m, m[:4]), r"log_q \(4, 7\)"),
        (mcmc_loss, (m, m), "log_f_target"),
        (score_matching_loss, (m, m), "trace"),
        (lambda *t: dsm_loss(*t, 0.1), (m, m), "noise"),
    ]
    for loss, tensors, message in cases:
        with pytest.raises(ValueError, match=message):
            loss(*tensors)
    with pytest.raises(ValueError, match="reduction='median'"):
        mcmc_loss(one, m, reduction="median")
    with pytest.raises(ValueError, match="one factor per target"):
        mcmc_loss(one, m, weight=m)
