"""A clamp whose gradient leads back inside the limits."""

import pytest
import torch

from ebm_mmdet.energy.recoverable_clamp import recoverable_clamp

X = torch.tensor([-1e4, -7.5, -7.0, 0.0, 7.0, 7.5, 1e4, torch.inf])


def gradient(slope):
    x = X.clone().requires_grad_()
    (found,) = torch.autograd.grad(slope * recoverable_clamp(x, -7, 7).sum(), x)
    return found.tolist()


def test_value_is_clamped():
    assert torch.equal(recoverable_clamp(X, -7, 7), X.clamp(-7, 7))


def test_gradient_is_one_inward_and_zero_outward():
    assert gradient(1.0) == [0, 0, 1, 1, 1, 1, 1, 1]
    assert gradient(-1.0) == [-1, -1, -1, -1, -1, 0, 0, 0]


@pytest.mark.parametrize("start", [-9.0, 9.0])
def test_descent_finds_back(start):
    x = torch.tensor(start, requires_grad=True)
    optimiser = torch.optim.SGD([x], 0.5)
    for _ in range(100):
        optimiser.zero_grad()
        (recoverable_clamp(x, -7, 7) - 3).square().backward()
        optimiser.step()
    assert x.item() == pytest.approx(3)
