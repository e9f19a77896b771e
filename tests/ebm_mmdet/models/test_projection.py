"""`projection_channels`: f of a first layer of low rank, whose projection learns with it."""

from __future__ import annotations

import copy

import pytest
import torch

from ebm_mmdet.models import EBMBBoxHead
from ebm_ops import prroi_pool_levels
from tests.ebm_mmdet.models.toys import batch, build, ebm_cfg, energy_head_cfg
from tests.tolerances import TOLERANCE

CHANNELS, PROJECTED = 16, 4


def make_head(**settings) -> EBMBBoxHead:
    torch.manual_seed(0)
    cfg = energy_head_cfg(strides=(8, 16), feature_levels=(0, 1), pool_size=3, **settings)
    head = EBMBBoxHead(**{name: value for name, value in cfg.items() if name != "type"})
    torch.nn.init.normal_(head.fc_energy.weight, std=0.5)
    return head.eval()


def problem(images: int = 2):
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(images, CHANNELS, n, n, generator=generator) for n in (16, 8)]
    corner = 60 * torch.rand(6, 2, generator=generator)
    side = torch.tensor([8.0, 20, 40, 100, 130, 0])[:, None] * torch.tensor([1.0, 0.7])
    index = torch.arange(6) % images
    return maps, torch.cat([corner, corner + side], 1), index, torch.arange(6) % 3


def f_and_gradient(head, maps, boxes, index, labels):
    fn = head.log_density_fn(head.prepare(maps), boxes, index, labels)
    y = torch.full((len(boxes), 2, 4), 0.02, requires_grad=True)
    f = fn(y)
    return f, torch.autograd.grad(f.sum(), y)[0]


@pytest.mark.parametrize("rule", ["assign", "concat"])
@pytest.mark.parametrize("standardize", [False, True])
def test_is_a_first_layer_of_low_rank(rule, standardize):
    """MLP(pool(P x)) with first layer W = MLP(pool(x)) with first layer W P."""
    settings = dict(level_rule=rule, standardize=standardize)
    head, plain = make_head(projection_channels=PROJECTED, **settings), make_head(**settings)
    first = head.trunk[0].weight.detach().unflatten(1, (-1, PROJECTED, 9))
    by_level = torch.stack([each.weight for each in head.projections])
    wide = torch.einsum("olps,lpc->olcs", first, by_level).flatten(1)
    plain.load_state_dict(
        {**head.state_dict(), "trunk.0.weight": wide}, strict=False
    )  # what is left over are the projections
    found, expected = (f_and_gradient(each, *problem()) for each in (head, plain))
    assert expected[0].std() > 0.1
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, **TOLERANCE[torch.float32])


def test_without_it_nothing_is_stored():
    head = make_head()
    assert not [name for name in head.state_dict() if "projection" in name]
    make_head(projection_channels=None).load_state_dict(head.state_dict())


@pytest.mark.parametrize("rule", ["assign", "concat"])
@pytest.mark.parametrize("count", [6, 1, 0])
def test_the_objective_trains_it_and_not_the_maps(rule, count):
    """Also by boxes of one level alone, and with zeros by none: no parameter is left out."""
    head = make_head(projection_channels=PROJECTED, level_rule=rule).train()
    maps, *targets = problem()
    maps = [each.requires_grad_() for each in maps]
    head.loss(head.prepare(maps), *(each[:count] for each in targets))["loss_energy"].backward()
    for projection in head.projections:
        assert (projection.weight.grad.abs().sum() > 0) == (count > 0)
    assert all(each.grad is None for each in maps)
    loss = head.loss(head.prepare(maps, detach=False), *targets)["loss_energy"]
    assert all((grad.abs().sum() > 0) for grad in torch.autograd.grad(loss, maps))


def test_refinement_asks_for_no_gradient_of_it(monkeypatch):
    model = build(ebm_cfg("fcos", head=dict(projection_channels=PROJECTED)))
    data = batch(model)
    with torch.no_grad():
        expected = model.predict(*copy.deepcopy(list(data.values())))

    asked, seen = [], []
    for projection in model.energy_head.projections:
        projection.weight.register_hook(asked.append)

    def watched(maps, *args, **kwargs):
        seen.extend(each.requires_grad for each in maps)
        return prroi_pool_levels(maps, *args, **kwargs)

    monkeypatch.setattr("ebm_mmdet.models.heads.ebm_bbox_head.prroi_pool_levels", watched)
    found = model.predict(*data.values())
    assert seen
    assert not any(seen)
    assert not asked
    for a, b in zip(found, expected):
        assert torch.equal(a.pred_instances.bboxes, b.pred_instances.bboxes)
        assert a.pred_instances.accepted_steps.sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_maps_in_float32(dtype):
    head = make_head(projection_channels=PROJECTED, standardize=True)
    half = copy.deepcopy(head).to(dtype)
    maps = problem()[0]
    for weights, context in ((half, None), (head, torch.autocast("cpu", dtype=dtype))):
        with torch.no_grad(), context or torch.enable_grad():
            found = weights.prepare([each.to(dtype) for each in maps])
        for a, b in zip(found, head.prepare(maps)):
            assert a.dtype == torch.float32
            assert a.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(a, b, rtol=0, atol=0.1)


def test_no_channels_are_refused():
    with pytest.raises(ValueError, match="projection_channels=0"):
        make_head(projection_channels=0)
