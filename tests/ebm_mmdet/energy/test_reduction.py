"""The decorator that gives every loss its weight, reduction and avg_factor."""

import inspect
import typing

import pytest
import torch

from ebm_mmdet.energy import losses
from ebm_mmdet.energy.reduction import Reduction, Weighting, reduce_loss, weighted

N, M, D = 5, 4, 3


def values(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ARGUMENTS = {
    "nce_loss": (values(N, M), values(N, M, seed=1)),
    "ml_is_loss": (values(N, M), values(N, M, seed=1)),
    "kld_is_loss": (values(N, M), values(N, M, seed=1), values(N, M, seed=2)),
    "mcmc_loss": (values(N), values(N, M, seed=1)),
    "score_matching_loss": (values(N, D), values(N, seed=1)),
    "dsm_loss": (values(N, M, D), values(N, M, D, seed=1), 0.3),
    "proposal_kl_loss": (values(N, M), values(N, M, seed=1)),
    "mdn_teacher_loss": (values(N, M), values(N, M, seed=1), values(N, seed=2)),
}
every_loss = pytest.mark.parametrize("name", losses.__all__)


@every_loss
def test_loss_is_one_value_per_target_reduced(name):
    """weighted(L)(..., weight=w, reduction=r, avg_factor=a) == reduce_loss(L(...), w, r, a)."""
    loss, arguments = getattr(losses, name), ARGUMENTS[name]
    each = inspect.unwrap(loss)(*arguments)
    assert each.shape == (N,)
    weight = values(N, seed=3).abs()
    for w in (None, weight):
        for reduction in typing.get_args(Reduction):
            found = loss(*arguments, weight=w, reduction=reduction)
            assert torch.equal(found, reduce_loss(each, w, reduction))
        found = loss(*arguments, weight=w, avg_factor=3.0)
        assert torch.equal(found, reduce_loss(each, w, avg_factor=3.0))
    assert torch.equal(loss(*arguments), each.sum() / N)


@every_loss
def test_signature_shows_what_the_decorator_adds(name):
    loss = getattr(losses, name)
    parameters = inspect.signature(loss).parameters
    assert all(p.kind is not p.VAR_KEYWORD for p in parameters.values())
    assert {key: parameters[key].default for key in Weighting.__annotations__} == {
        "weight": None,
        "reduction": "mean",
        "avg_factor": None,
    }
    hints = typing.get_type_hints(loss)
    assert hints.keys() == {*parameters, "return"}
    # The names are written in two places: for type checkers, and for documentation.
    assert {key: hints[key] for key in Weighting.__annotations__} == typing.get_type_hints(
        Weighting
    )
    assert loss.__doc__
    assert loss.__name__ == name


@every_loss
def test_refuses_what_it_does_not_know(name):
    loss, arguments = getattr(losses, name), ARGUMENTS[name]
    with pytest.raises(TypeError, match="weigth"):
        loss(*arguments, weigth=torch.ones(N))
    with pytest.raises(TypeError, match="positional"):
        loss(*arguments, torch.ones(N))
    with pytest.raises(ValueError, match="one factor per target"):
        loss(*arguments, weight=torch.ones(N + 1))


def test_decorates_a_loss_of_ones_own():
    @weighted
    def distance(prediction, target):
        """‖prediction - target‖₁."""
        return (prediction - target).abs().sum(1)

    prediction, target = torch.ones(2, 3), torch.zeros(2, 3)
    assert distance(prediction, target, weight=torch.tensor([1.0, 3.0])) == 6
    assert distance(prediction, target, reduction="none").tolist() == [3, 3]
    assert list(inspect.signature(distance).parameters) == [
        "prediction",
        "target",
        "weight",
        "reduction",
        "avg_factor",
    ]
