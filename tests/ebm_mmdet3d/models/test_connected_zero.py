"""A zero that is connected to every parameter, for any values."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from ebm_mmdet3d.models.connected_zero import connected_zero


def test_every_parameter_gets_a_zero_gradient():
    parameters = [torch.tensor(3.0), torch.randn(2, 3), torch.tensor([float("inf"), float("nan")])]
    for parameter in parameters:
        parameter.requires_grad_()
    zero = connected_zero(iter(parameters))
    assert zero == 0
    assert zero.shape == ()
    zero.backward()
    for parameter in parameters:
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
