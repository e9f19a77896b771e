"""The contracts of ``ebm_mmdet.energy.contracts`` as checks that any implementation can be given.

Each function states one contract as equations. Tests of heads, refiners and densities elsewhere use
them for their own parts.
"""

import copy
import inspect
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from ebm_mmdet.energy import (
    Density,
    LogDensityFn,
    Objective,
    Proposal,
    RefinementResult,
    Refiner,
    SelectableLogDensityFn,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check_signature(protocol: Callable[..., Any], method: Callable[..., Any]) -> None:
    """Same parameters in the same order with the same defaults; more only if they are optional."""
    wanted, found = (list(inspect.signature(f).parameters.values()) for f in (protocol, method))
    wanted, found = ([p for p in ps if p.name != "self"] for ps in (wanted, found))
    for mine, theirs in zip(wanted, found, strict=False):
        assert (mine.name, mine.kind, mine.default) == (theirs.name, theirs.kind, theirs.default)
    assert len(found) >= len(wanted)
    assert all(p.default is not p.empty for p in found[len(wanted) :])


def check_log_density_fn(fn: LogDensityFn, y: Tensor, **tolerance: Any) -> None:
    """fn(y) is (N, S), and entry (n, s) depends on y[n, s] alone."""
    f = fn(y)
    assert f.shape == y.shape[:-1]
    assert f.dtype in (torch.float32, torch.float64)
    for s in range(y.shape[1]):
        torch.testing.assert_close(fn(y[:, s : s + 1])[:, 0], f[:, s], **tolerance)
    leaf = y.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(fn(leaf)[0, 0], leaf)
    slope[0, 0] = 0
    assert not slope.any(), "f of one point has a gradient at another"


def check_select(fn: SelectableLogDensityFn, y: Tensor, **tolerance: Any) -> None:
    """fn.select(i)(y[i]) == fn(y)[i], for any index, in any order, repeated or empty."""
    n = len(y)
    f = fn(y)
    for index in ([n - 1, 0], [0, 0, n - 1], list(range(n)), []):
        i = torch.tensor(index, dtype=torch.int64)
        torch.testing.assert_close(fn.select(i)(y[i]), f[i], **tolerance)
    narrowed = fn.select(torch.arange(1, n))
    assert isinstance(narrowed, SelectableLogDensityFn)
    torch.testing.assert_close(
        narrowed.select(torch.tensor([n - 2]))(y[n - 1 :]), f[n - 1 :], **tolerance
    )


def check_density(density: Density, dim: int) -> None:
    """(δ, ℓ) = sample(...):  ℓ == log_prob(δ),  E δ = 0,  no gradient, and the seed is all."""
    check_signature(Density.sample, type(density).sample)
    check_signature(Density.log_prob, type(density).log_prob)
    state = torch.get_rng_state()
    for n, s in ((3, 5), (0, 4), (3, 0)):
        offsets, log_prob = density.sample(n, s, seeded())
        assert offsets.shape == (n, s, dim)
        assert log_prob.shape == (n, s)
        assert not offsets.requires_grad
        torch.testing.assert_close(density.log_prob(offsets), log_prob)
        again, _ = density.sample(n, s, seeded())
        assert torch.equal(offsets, again)
    assert torch.equal(torch.get_rng_state(), state), "drew from the global generator"
    offsets, _ = density.sample(1, 40_000, seeded(), dtype=torch.float64)
    error = offsets[0].std(0) / len(offsets[0]) ** 0.5
    assert (offsets[0].mean(0).abs() < 5 * error).all()


def check_proposal(proposal: Proposal, n: int, dim: int, parameters: Sequence[Tensor]) -> None:
    """draw(S) (N, S, D) has no gradient, log_prob (N, S) has one in φ, and the seed is all."""
    check_signature(Proposal.draw, type(proposal).draw)
    check_signature(Proposal.log_prob, type(proposal).log_prob)
    state = torch.get_rng_state()
    y = proposal.draw(6, seeded())
    assert torch.equal(torch.get_rng_state(), state), "drew from the global generator"
    assert y.shape == (n, 6, dim)
    assert not y.requires_grad
    assert torch.equal(y, proposal.draw(6, seeded()))
    log_q = proposal.log_prob(y)
    assert log_q.shape == (n, 6)
    assert all(g.any() for g in torch.autograd.grad(log_q.sum(), parameters))
    for s in range(6):
        torch.testing.assert_close(proposal.log_prob(y[:, s : s + 1])[:, 0], log_q[:, s])


def check_objective(
    objective: Objective,
    fn: LogDensityFn,
    targets: Tensor,
    empty_fn: LogDensityFn,
    parameters: Sequence[nn.Parameter],
) -> None:
    """The contract of a training method.

        loss(w, a) = Σ_n w_n loss(e_n, 1) / a         for weights w and avg_factor a
        loss(None, None) = loss(1, N)
        N = 0: loss = 0, with a gradient of zero for every parameter
        one seed, one result; the global generator is left alone

    Args:
        objective: what is checked; it is given the same arguments as every other.
        fn: f of the N targets.
        targets: (N, D).
        empty_fn: f of no target.
        parameters: of f.
    """
    check_signature(Objective.__call__, type(objective).__call__)

    def run(weight: Tensor | None = None, avg_factor: float | Tensor | None = None) -> dict:
        return objective(fn, targets, weight, avg_factor, seeded())

    state = torch.get_rng_state()
    result, again = run(), run()
    assert torch.equal(torch.get_rng_state(), state), "drew from the global generator"
    assert result.keys() == again.keys()
    assert all(torch.equal(result[key], again[key]) for key in result)

    assert [key for key in result if "loss" in key] == ["loss"]
    assert all(value.shape == () and value.isfinite() for value in result.values())
    assert [key for key, value in result.items() if value.requires_grad] == ["loss"]

    n = len(targets)
    each = torch.stack([run(row, 1.0)["loss"].detach() for row in torch.eye(n)])
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(result["loss"].detach(), each.mean(), **close)
    weight = torch.linspace(0, 2, n)
    for avg_factor in (5.0, torch.tensor(5.0)):
        found = run(weight, avg_factor)["loss"].detach()
        torch.testing.assert_close(found, (weight * each).sum() / 5, **close)

    for divisor in (None, 0.0, 3.0):
        nothing = objective(empty_fn, targets[:0], None, divisor, seeded())
        assert nothing.keys() == result.keys()
        assert all(value == 0 for value in nothing.values())
        gradients = torch.autograd.grad(nothing["loss"], parameters)
        assert not any(g.any() for g in gradients)


def check_refiner(
    refiner: Refiner, fn: LogDensityFn, y0: Tensor, climbs: bool = False
) -> RefinementResult:
    """The contract of a refiner.

        y == y0, bit for bit, where accepted == 0
        f(y) == log_density, and f(y) >= f(y0) where the refiner climbs f

    Nothing carries a gradient, whatever the mode of the caller, and no target is a valid input.
    """
    check_signature(
        Refiner.__call__, refiner if inspect.isfunction(refiner) else type(refiner).__call__
    )
    result = refiner(fn, y0)
    assert result.y.shape == y0.shape
    assert result.log_density.shape == result.accepted.shape == y0.shape[:1]
    assert result.accepted.dtype == torch.int64
    assert not result.y.requires_grad
    assert not result.log_density.requires_grad
    still = result.accepted == 0
    assert torch.equal(result.y[still], y0[still])
    with torch.no_grad():
        f, f0 = (fn(y.unsqueeze(1)).squeeze(1) for y in (result.y, y0))
    torch.testing.assert_close(result.log_density, f.where(f.isfinite(), -torch.inf))
    if climbs:
        assert (f >= f0).all()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(refiner(fn, y0).y, result.y)
    return result


def check_threads(call: Callable[[int], Any], threads: int = 4, calls: int = 24) -> None:
    """call(i) in several threads at once gives what it gives alone: no call leaves anything."""
    alone = [call(i) for i in range(calls)]
    with ThreadPoolExecutor(threads) as pool:
        together = list(pool.map(call, range(calls)))
    torch.testing.assert_close(together, alone, rtol=0, atol=0)


def copies(part: Any) -> list[Any]:
    """What a user may do to a part before using it."""
    return [copy.copy(part), copy.deepcopy(part), pickle.loads(pickle.dumps(part))]
