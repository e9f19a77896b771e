"""`min_score`: boxes below it keep every bit, the others move as without it, 0 refines all."""

from __future__ import annotations

import copy

import pytest
import torch

from ebm_mmdet.energy import RefineChosen, gradient_ascent
from ebm_mmdet.energy.host_reads import without_reads
from ebm_mmdet.models import GradientAscentRefiner
from tests.ebm_mmdet.models.toys import batch, build, ebm_cfg


class Parabola:
    """f_n(y) = -|y - c_n|², which may be narrowed."""

    def __init__(self, centres: torch.Tensor) -> None:
        self.centres = centres

    def __call__(self, y: torch.Tensor) -> torch.Tensor:
        return -(y - self.centres[:, None]).square().sum(-1)

    def select(self, index: torch.Tensor) -> Parabola:
        return Parabola(self.centres[index])


def climb(fn, y0, **_):
    return gradient_ascent(fn, y0, 0.1, 3)


@pytest.mark.parametrize("chosen", [[1, 0, 0, 1, 1], [0] * 5, [1] * 5])
def test_the_chosen_move_as_alone_and_the_others_stay(chosen):
    chosen = torch.tensor(chosen, dtype=torch.bool)
    fn = Parabola(torch.arange(20.0).reshape(5, 4) / 7)
    y0 = torch.full((5, 4), 0.3)
    seen = []

    def refiner(fn, y0, *, covariance, num_per_image):
        seen.append((len(covariance), num_per_image))
        return climb(fn, y0)

    found = RefineChosen(refiner, chosen)(
        fn, y0, covariance=torch.eye(4).expand(5, 4, 4), num_per_image=[2, 0, 3]
    )
    everything = climb(fn, y0)
    assert torch.equal(found.y, torch.where(chosen[:, None], everything.y, y0))
    assert torch.equal(found.accepted, everything.accepted * chosen)
    torch.testing.assert_close(found.log_density, fn(found.y[:, None])[:, 0])
    assert seen == [(int(chosen.sum()), [int(chosen[:2].sum()), 0, int(chosen[2:].sum())])]


@pytest.mark.parametrize("num_modes", [0, 2])
def test_a_graph_of_fixed_shapes_gives_the_same(num_modes):
    chosen = torch.tensor([1, 0, 0, 1, 1], dtype=torch.bool)
    fn, y0 = Parabola(torch.arange(20.0).reshape(5, 4) / 7), torch.full((5, 4), 0.3)
    starts = dict(num_starts=3, start_std=0.1, num_modes=num_modes) if num_modes else {}
    refine = RefineChosen(GradientAscentRefiner(step_size=0.1, num_steps=3, **starts), chosen)
    wanted = refine(fn, y0)
    with without_reads():
        found = refine(fn, y0)
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_a_log_density_that_cannot_be_narrowed_is_refused():
    with pytest.raises(TypeError, match="has no select"):
        RefineChosen(climb, torch.ones(1, dtype=torch.bool))(lambda y: y.sum(-1), torch.zeros(1, 4))


def predicted(model):
    data = batch(model)
    with torch.no_grad():
        return [each.pred_instances for each in model.predict(*data.values(), rescale=True)]


def test_boxes_below_keep_every_bit_and_the_others_move_as_ever():
    model = build(ebm_cfg("retinanet", clip_boxes=False))
    every = predicted(model)
    model.min_score = float(torch.cat([each.scores for each in every]).median())
    some = predicted(model)
    model.refiner = None
    for before, found, all_moved in zip(predicted(model), some, every):
        low = found.scores < model.min_score
        assert low.any()
        assert (~low).any()
        assert torch.equal(found.bboxes[low], before.bboxes[low])
        assert (found.accepted_steps[low] == 0).all()
        torch.testing.assert_close(found.log_density[low], before.log_density[low])
        torch.testing.assert_close(found.bboxes[~low], all_moved.bboxes[~low], rtol=1e-4, atol=1e-3)
        assert torch.equal(found.accepted_steps[~low], all_moved.accepted_steps[~low])


def test_zero_is_bit_for_bit_as_without_it_and_one_moves_nothing():
    model = build(ebm_cfg("retinanet", min_score=0.0, clip_boxes=False))
    plain = build(ebm_cfg("retinanet", clip_boxes=False))
    assert plain.min_score == 0
    for a, b in zip(predicted(model), predicted(plain)):
        assert torch.equal(a.bboxes, b.bboxes)
    model.min_score = 2.0
    assert all((each.accepted_steps == 0).all() for each in predicted(model))


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_score_that_cannot_be_meant_is_refused(value):
    with pytest.raises(ValueError, match="min_score"):
        build(ebm_cfg("retinanet", min_score=value))


def test_a_refiner_that_samples_is_refused():
    prior = dict(std=[0.1] * 4)
    cfg = copy.deepcopy(ebm_cfg("retinanet", min_score=0.01))
    cfg["refiner"] = dict(type="ImportanceMeanRefiner", prior=prior, num_samples=8)
    with pytest.raises(ValueError, match="ImportanceMeanRefiner samples"):
        predicted(build(cfg))
