"""EnergyGuidedNMS against a loop written from the papers' description."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.structures import InstanceData

from ebm_mmdet.models import EnergyGuidedNMS
from ebm_mmdet.models.task_modules import energy_guided_nms


def iou(a, b) -> Fraction:
    """Exact."""
    (ax, ay, au, av), (bx, by, bu, bv) = (map(Fraction, box) for box in (a, b))
    inter = max(0, min(au, bu) - max(ax, bx)) * max(0, min(av, bv) - max(ay, by))
    union = (au - ax) * (av - ay) + (bu - bx) * (bv - by) - inter
    return inter / union if union else Fraction(0)


def oracle(boxes, scores, labels, energy, threshold):
    """[(index of survivor, cluster-max score)], highest score first."""
    kept = []
    for label in sorted(set(labels)):
        rest = sorted(
            (i for i in range(len(boxes)) if labels[i] == label), key=lambda i: -energy[i]
        )
        while rest:
            top = rest[0]
            cluster = [i for i in rest if i == top or iou(boxes[top], boxes[i]) > threshold]
            kept.append((top, max(scores[i] for i in cluster)))
            rest = [i for i in rest if i not in cluster]
    return sorted(kept, key=lambda pair: -pair[1])


def instances(n, seed, classes=3):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 30
    size = 10 + torch.rand(n, 2, generator=generator) * 30
    return InstanceData(
        bboxes=torch.cat((corner, corner + size), 1),
        scores=torch.rand(n, generator=generator),
        labels=torch.randint(classes, (n,), generator=generator),
        tag=torch.arange(n),
    ), torch.randn(n, generator=generator)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(0, 10_000), st.floats(0.1, 0.9))
def test_equals_the_loop(n, seed, threshold):
    found, energy = instances(n, seed)
    kept = EnergyGuidedNMS(iou_threshold=threshold, max_per_img=1000)(found, energy)
    expected = oracle(
        found.bboxes.tolist(),
        found.scores.tolist(),
        found.labels.tolist(),
        energy.tolist(),
        threshold,
    )
    assert kept.tag.tolist() == [i for i, _ in expected]
    torch.testing.assert_close(kept.scores, torch.tensor([s for _, s in expected]))


def on_a_lattice(n, generator, classes):
    """Boxes of few sizes and places, so that IoUs and f tie; all numbers are exact in float32."""

    def draw(limit):
        return torch.randint(limit, (n, 2), generator=generator)

    corner = 4.0 * draw(4)
    return InstanceData(
        bboxes=torch.cat((corner, corner + 4.0 * draw(4)), 1),  # some without area
        scores=torch.randint(8, (n,), generator=generator) / 8,
        labels=torch.randint(classes, (n,), generator=generator) * 1000,
        tag=torch.arange(n),
    ), torch.randint(4, (n,), generator=generator).float()


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 40),
    seed=st.integers(0, 10_000),
    classes=st.sampled_from([1, 2, 20]),
    threshold=st.sampled_from([0.25, 0.3, 0.5, 0.7]),
    exponent=st.integers(-10, 40),
    shift=st.sampled_from([0.0, -(2.0**15), 2.0**15]),
    block=st.sampled_from([1, 3, 64]),
    rounds=st.sampled_from([None, 1, 4]),
)
def test_equals_the_loop_with_ties_at_any_scale(
    n, seed, classes, threshold, exponent, shift, block, rounds
):
    """IoUs are those of the given boxes exactly: no offset of a class rounds their sides.

    With ``rounds`` in the way of a GPU, where the host reads after several of them.
    """
    found, f = on_a_lattice(n, torch.Generator().manual_seed(seed), classes)
    found.bboxes = (found.bboxes + shift) * 2.0**exponent
    expected = oracle(
        *(x.tolist() for x in (found.bboxes, found.scores, found.labels, f)), threshold
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(energy_guided_nms, "_BLOCK_ON_CPU", block)
        if rounds is not None:
            patch.setattr(energy_guided_nms, "pays_to_read", lambda device, rows: False)
            patch.setattr(energy_guided_nms, "_BLOCK", block)
            patch.setattr(energy_guided_nms, "_ROUNDS", rounds)
        kept = EnergyGuidedNMS(iou_threshold=threshold, max_per_img=1000)(found, f)
    assert kept.tag.tolist() == [i for i, _ in expected]
    assert kept.scores.tolist() == [score for _, score in expected]


def test_invariant_to_a_constant_per_class():
    found, energy = instances(50, 0)
    nms = EnergyGuidedNMS()
    shifted = energy + torch.tensor([100.0, -3.0, 7.0])[found.labels]
    assert torch.equal(nms(found, energy).tag, nms(found, shifted).tag)


def test_keeps_the_best_scores():
    found, energy = instances(50, 1)
    everything = EnergyGuidedNMS(max_per_img=1000)(found, energy)
    assert torch.equal(EnergyGuidedNMS(max_per_img=4)(found, energy).tag, everything.tag[:4])
    assert torch.equal(EnergyGuidedNMS(max_per_img=-1)(found, energy).tag, everything.tag)


@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_a_box_without_density_never_suppresses_one_with(bad):
    box = torch.tensor([[0.0, 0, 10, 10]]).repeat(2, 1)
    found = InstanceData(
        bboxes=box,
        scores=torch.tensor([0.9, 0.2]),
        labels=torch.zeros(2).long(),
        tag=torch.arange(2),
    )
    kept = EnergyGuidedNMS()(found, torch.tensor([bad, -50.0]))
    assert kept.tag.tolist() == [1]
    torch.testing.assert_close(kept.scores, torch.tensor([0.9]))


def test_the_input_is_not_changed():
    found, energy = instances(30, 2)
    before = found.scores.clone()
    EnergyGuidedNMS()(found, energy)
    assert torch.equal(found.scores, before)


def test_nothing_in_nothing_out():
    found, energy = instances(0, 0)
    assert len(EnergyGuidedNMS()(found, energy)) == 0
