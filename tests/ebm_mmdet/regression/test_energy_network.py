import pytest
import torch

from ebm_mmdet.regression.heads.energy_network import EnergyNetwork
from ebm_mmdet.regression.heads.fused_energy import blocks

CLOSE = {"rtol": 0, "atol": 1e-6}


def network(act=None, dtype=torch.float32, **settings):
    torch.manual_seed(0)
    settings = {"in_channels": 20, "in_dim": 2, "y_dims": (5, 6), "hidden": 12, **settings}
    return EnergyNetwork(**settings, act_cfg=act).to(dtype)


def inputs(n=5, s=7, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    h = torch.randn(n, 20, generator=g, dtype=dtype, requires_grad=True)
    return h, torch.randn(n, s, 2, generator=g, dtype=dtype)


@pytest.mark.parametrize("act", [None, {"type": "SiLU"}])
def test_split_fusion_equals_the_concatenation(act):
    """W [h, φ] + b = (W_h h + b) + W_y φ, at the published size and at a small one."""
    for net, width, dim in ((network(act), 20, 2), (EnergyNetwork(512, 3, act_cfg=act), 512, 3)):
        h, x = torch.randn(4, width), torch.randn(4, 9, dim)
        expected = net.concatenated(h, x)
        torch.testing.assert_close(net(net.image_part(h), x), expected, **CLOSE)
        with torch.no_grad():
            torch.testing.assert_close(net(net.image_part(h), x), expected, **CLOSE)
    assert sum(p.numel() for p in EnergyNetwork(512, 1).parameters()) == 339_713
    assert sum(p.numel() for p in EnergyNetwork(512, 3).parameters()) == 339_745


@pytest.mark.parametrize("rows", [1, 4, 9, 100])
def test_blocked_operation_equals_its_definition_with_all_gradients(rows, monkeypatch):
    net = network(dtype=torch.float64)
    monkeypatch.setattr(net, "_rows_per_block", lambda x: rows)
    h, x = inputs(dtype=torch.float64)
    g = torch.randn(5, 7, dtype=torch.float64)
    wanted = [*net.parameters(), h]
    results = []
    for f in (net(net.image_part(h), x), net.concatenated(h, x)):
        results.append((f, *torch.autograd.grad(f, wanted, g)))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(net(net.image_part(h), x), results[0][0])


def test_points_that_require_a_gradient_have_derivatives_of_any_order():
    net = network({"type": "SiLU"}, torch.float64)
    h, x = inputs(2, 3, torch.float64)
    x.requires_grad_()
    h = h.detach()
    assert torch.autograd.gradcheck(lambda z: net(net.image_part(h), z), x)
    assert torch.autograd.gradgradcheck(lambda z: net(net.image_part(h), z), x)


def test_blocks_cover_every_point_once():
    for n, s, rows in ((0, 5, 3), (5, 0, 3), (5, 7, 1), (5, 7, 20), (3, 100, 30), (4, 4, 1000)):
        seen = torch.zeros(n, s)
        for part in blocks(n, s, rows):
            seen[part] += 1
            assert seen[part].numel() <= max(rows, 1)
        assert (seen == 1).all()


@pytest.mark.parametrize(("n", "s"), [(0, 3), (3, 0), (1, 1)])
def test_no_image_and_no_point(n, s):
    net = network()
    h, x = inputs(n, s)
    f = net(net.image_part(h), x)
    assert f.shape == (n, s)
    grads = torch.autograd.grad(f.sum(), [*net.parameters(), h], allow_unused=False)
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_give_float32_energies(dtype):
    net = network(dtype=dtype)
    h, x = inputs()
    f = net(net.image_part(h.to(dtype)), x)
    assert f.dtype == torch.float32
    expected = network().to(dtype).float()
    torch.testing.assert_close(f, expected(expected.image_part(h.to(dtype).float()), x))
    f.sum().backward()
    assert all(p.grad.dtype == dtype for p in net.parameters())


@pytest.mark.parametrize(
    "settings", [{"y_dims": ()}, {"hidden": 0}, {"in_channels": 0}, {"y_dims": (4, 0)}]
)
def test_sizes_below_one(settings):
    with pytest.raises(ValueError, match="1 or more"):
        network(**settings)
