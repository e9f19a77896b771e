"""The rivals of the study: the regressor learns the offset to the object, others as documented."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("mmdet", reason="needs mmdet, which `make test` installs")

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import ebm_mmdet  # noqa: F401
from ebm_mmdet.apis.fitting.kl_regressor import KLRegressor
from ebm_mmdet.apis.fitting.rivals import BoxRegressor, FixedOffset, RegressionStep, rival_boxes
from ebm_mmdet.energy import RefineChosen
from ebm_mmdet.models import covariance_to_side_std
from ebm_mmdet.models.box_coding import decode_boxes, encode_boxes
from ebm_mmdet.models.flip_mean import FLIPS, FlipMean, mirror, mirror_boxes
from ebm_mmdet.models.heads import EBMBBoxHead
from ebm_mmdet.models.task_modules import DeltaXYXYBBoxCoder
from lab.studies.kl_voting import nms_of, vote_with
from lab.studies.rivals import (
    EnergyEnsemble,
    FlippedRegressor,
    GaussianStep,
    RandomNudge,
    learned_proposal,
)
from tests.tolerances import TOLERANCE

HEAD = dict(
    num_classes=2,
    in_channels=3,
    strides=[8],
    fc_channels=[5],
    standardize=True,
    objective=dict(
        type="NCEObjective",
        num_noise=15,
        noise=dict(type="GaussianMixtureNoise", sigmas=[0.1, 0.2], dim=4),
    ),
)
GT = torch.tensor([[10.0, 12.0, 40.0, 30.0], [20.0, 8.0, 28.0, 60.0]])
IMAGE, LABELS = torch.tensor([0, 1]), torch.tensor([0, 1])


@pytest.fixture
def neck() -> list[torch.Tensor]:
    return [torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(0))]


def oracle(feats, boxes, batch_index):
    return encode_boxes(GT[batch_index], boxes)


def test_regressor_targets_lead_back_to_the_object(neck, monkeypatch) -> None:
    regressor = BoxRegressor({"type": "EBMBBoxHead", **HEAD})
    feats = regressor.prepare(neck)
    assert regressor.offsets(feats, GT, IMAGE).shape == (2, 4)
    assert regressor.loss(feats, GT, IMAGE, LABELS)["loss_l1"] > 0.01

    monkeypatch.setattr(regressor, "offsets", oracle)
    assert regressor.loss(feats, GT, IMAGE, LABELS)["loss_l1"] == 0
    # And so does the refiner: from a wrong box the oracle's full step lands on the object.
    wrong = decode_boxes(torch.tensor([[0.1, -0.1, 0.2, 0.1]]).expand(2, 4), GT)
    fn = EBMBBoxHead(**HEAD).log_density_fn(feats, wrong, IMAGE, LABELS)
    full = RegressionStep(regressor, 1.0)(fn, torch.zeros(2, 4)).y
    torch.testing.assert_close(decode_boxes(full, wrong), GT, **TOLERANCE[torch.float32])
    half = RegressionStep(regressor, 0.5)(fn, torch.zeros(2, 4)).y
    torch.testing.assert_close(2 * half, full)
    # The second of two half steps asks from where the first one ended.
    first = decode_boxes(half, wrong)
    second = decode_boxes(0.5 * encode_boxes(GT, first), first)
    twice = RegressionStep(regressor, 0.5, rounds=2)(fn, torch.zeros(2, 4)).y
    torch.testing.assert_close(decode_boxes(twice, wrong), second, **TOLERANCE[torch.float32])
    again = RegressionStep(regressor, 1.0, rounds=2)(fn, torch.zeros(2, 4)).y
    torch.testing.assert_close(decode_boxes(again, wrong), GT, **TOLERANCE[torch.float32])


def test_by_l2_a_regressor_learns_the_mean_and_by_l1_the_median(neck, monkeypatch) -> None:
    """Three annotations of four are alike; the fourth has another convention."""
    other = torch.tensor([10.0, 12.0, 50.0, 30.0])
    truth = torch.stack([*GT[:1].expand(3, 4), other])
    boxes, images = GT[:1].expand(4, 4), torch.zeros(4, dtype=torch.long)
    targets = encode_boxes(truth, boxes)
    answers = {"l1": targets.median(0).values, "l2": targets.mean(0)}
    assert (answers["l1"] - answers["l2"]).abs().max() > 0.05
    for distance, answer in answers.items():
        regressor = BoxRegressor({"type": "EBMBBoxHead", **HEAD}, distance=distance)
        monkeypatch.setattr(regressor, "jittered", lambda *_: (boxes, truth, images))
        losses = []
        for nudge in torch.cat([torch.zeros(1, 4), 0.01 * torch.eye(4), -0.01 * torch.eye(4)]):
            found = (answer + nudge).expand(4, 4)
            monkeypatch.setattr(regressor, "offsets", lambda *_, found=found: found)
            losses.append(float(regressor.loss([], GT, IMAGE, LABELS)[f"loss_{distance}"]))
        assert losses[0] < min(losses[1:])
    with pytest.raises(ValueError, match="distance='huber'; use one of l1, l2"):
        BoxRegressor({"type": "EBMBBoxHead", **HEAD}, distance="huber")


def test_the_regressor_of_kl_loss_states_sides_and_their_spread(neck, monkeypatch) -> None:
    """An oracle of σ = 0.1 e^-1 of the size; its evidence is that of four normal numbers."""
    regressor = KLRegressor({"type": "EBMBBoxHead", **HEAD}).eval()
    feats = regressor.prepare(neck)
    assert regressor.sides(feats, GT, IMAGE)[0].shape == (2, 4)
    regressor.loss(feats, GT, IMAGE, LABELS)["loss_kl"].backward()
    assert regressor.fc_energy.weight.grad.abs().sum(1).count_nonzero() == 8  # σ learns too

    def sides(feats, boxes, batch_index):
        delta = (GT[batch_index] - boxes) / (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2) / 0.1
        return torch.cat((delta, torch.full_like(delta, -2.0)), dim=1)

    monkeypatch.setattr(BoxRegressor, "offsets", lambda self, *given: sides(*given))
    assert regressor.loss(feats, GT, IMAGE, LABELS)["loss_kl"] == pytest.approx(-1.0, abs=1e-4)
    wrong = GT + torch.tensor([[1.0, 0.0, 3.0, -2.0]])
    size = (wrong[:, 2:] - wrong[:, :2]).repeat(1, 2)
    std = 0.1 * size / torch.e
    likelihood, ratio = regressor.evidence(feats, wrong, IMAGE)
    normal = torch.distributions.Normal(GT / size, std / size)
    peak, constant = normal.log_prob(GT / size).sum(1), 2 * torch.log(torch.tensor(2 * torch.pi))
    expected = -normal.log_prob(wrong / size).sum(1)
    torch.testing.assert_close(likelihood + constant, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ratio, peak + expected, rtol=1e-4, atol=1e-4)

    fn = EBMBBoxHead(**HEAD).log_density_fn(feats, wrong, IMAGE, LABELS)
    result = GaussianStep(regressor)(fn, torch.zeros(2, 4))
    torch.testing.assert_close(decode_boxes(result.y, wrong), GT, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(covariance_to_side_std(wrong, result.covariance), std)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_learned_proposal_has_the_head_and_the_noise_of_the_recipe(neck, beta) -> None:
    objective = {**HEAD["objective"], "beta": beta}
    settings = {"type": "EBMBBoxHead", **HEAD, "objective": objective}
    head = MODELS.build(learned_proposal(settings, [0.1, 0.2, 0.3, 0.4]))
    assert head.objective.num_noise == 15
    assert head.reference_noise.sigmas.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    if beta:
        torch.testing.assert_close(
            head.target_noise.sigmas, torch.tensor([[0.01] * 4, [0.02] * 4]), check_dtype=False
        )
    else:
        assert head.target_noise is None
    losses = head.loss(head.prepare(neck), GT, IMAGE, LABELS)
    losses["loss_energy"].backward()
    assert head.proposal[2].weight.grad.abs().sum() > 0
    assert settings["objective"] == objective


def test_the_rival_of_a_fit_learns_from_a_quarter_of_the_boxes(neck, monkeypatch) -> None:
    asked, real = [], BoxRegressor.offsets
    monkeypatch.setattr(
        BoxRegressor, "offsets", lambda self, *a: asked.append(len(a[1])) or real(self, *a)
    )
    for num_boxes in (None, rival_boxes(HEAD)):
        regressor = BoxRegressor(HEAD, num_boxes)
        regressor.loss(regressor.prepare(neck), GT, IMAGE, LABELS)["loss_l1"].backward()
    assert asked == [16 * len(GT), 4 * len(GT)]
    assert rival_boxes({"objective": {"num_noise": 1}}) == 1


def test_a_regressor_leaves_boxes_of_any_class_alone(neck) -> None:
    regressor = BoxRegressor({"type": "EBMBBoxHead", **HEAD, "num_classes": 80}).eval()
    fn = regressor.log_density_fn(regressor.prepare(neck), GT, IMAGE, torch.tensor([79, 5]))
    some = RefineChosen(RegressionStep(regressor, 1.0), torch.tensor([True, False]))
    y = some(fn, torch.zeros(2, 4)).y
    assert (y[0] != 0).any()
    assert (y[1] == 0).all()


def test_fixed_offset_and_nudge() -> None:
    y0 = torch.zeros(2000, 4)
    shift = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert (FixedOffset(shift)(None, y0).y == shift).all()
    moved = RandomNudge(0.01, seed=0)(None, y0).y
    # 8000 draws: the estimated deviation has a relative error of 0.8 %.
    assert moved.std() == pytest.approx(0.01, rel=0.04)
    assert (RandomNudge(0.01, seed=0)(None, y0).y == moved).all()


def test_ensemble_is_the_mean_log_density(neck) -> None:
    heads = [EBMBBoxHead(**HEAD).eval() for _ in range(3)]
    y = 0.1 * torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    ensemble = EnergyEnsemble(heads)
    fn = ensemble.log_density_fn(ensemble.prepare(neck), GT, IMAGE, LABELS)
    each = [head.log_density_fn(head.prepare(neck), GT, IMAGE, LABELS)(y) for head in heads]
    torch.testing.assert_close(fn(y), torch.stack(each).mean(0))
    torch.testing.assert_close(fn.select(torch.tensor([1]))(y[1:]), fn(y)[1:])


def test_boxes_to_learn_from_are_drawn_where_the_annotations_are() -> None:
    regressor = BoxRegressor(HEAD).to("meta")
    for drawn in regressor.jittered(GT.to("meta"), IMAGE.to("meta")):
        assert drawn.device.type == "meta"


def test_an_ensemble_regresses_by_the_mean_step_if_all_do(neck) -> None:
    torch.manual_seed(0)
    heads = [EBMBBoxHead(**HEAD, regression=dict()).eval() for _ in range(2)]
    for head in heads:
        torch.nn.init.normal_(head.regression.fc.weight, std=0.5)
    y = 0.1 * torch.randn(2, 3, 4)

    def fn(heads):
        ensemble = EnergyEnsemble(heads)
        return ensemble.log_density_fn(ensemble.prepare(neck), GT, IMAGE, LABELS)

    f, step = fn(heads).regress(y)
    alone = [fn([head]).regress(y) for head in heads]
    torch.testing.assert_close(f, (alone[0][0] + alone[1][0]) / 2)
    torch.testing.assert_close(step, (alone[0][1] + alone[1][1]) / 2)
    some = torch.tensor([1])
    torch.testing.assert_close(fn(heads).select(some).regress(y[some])[1], step[some])
    assert not hasattr(fn([heads[0], EBMBBoxHead(**HEAD)]), "regress")


def test_neighbours_vote_by_their_variances() -> None:
    """Two candidates of one object: its box is their mean, weighted by inverse variances."""
    boxes = torch.tensor([[10.0, 10, 30, 30], [10, 10, 34, 30], [70, 10, 90, 30], [5, 5, 5, 9]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.zeros(4, dtype=torch.long)
    log_variance = torch.tensor([[0.0, 0, 0, 0], [0.0, 0, -1, 0], [0.0, 0, 0, 0]])

    class Sides:
        coder = DeltaXYXYBBoxCoder(clip_border=False)

        def sides(self, feats, boxes, batch_index):
            assert len(boxes) == 3  # without the one that has no area
            std = self.coder.pixels_per_delta(boxes) * (0.5 * log_variance).exp()
            return boxes.clone(), std

    found = InstanceData(bboxes=boxes / 2, scores=scores, labels=labels)
    meta = dict(scale_factor=(2.0, 2.0), ori_shape=(20, 40), img_shape=(40, 80))
    sample = DetDataSample(metainfo=meta, pred_instances=found)
    kept = vote_with(Sides(), [], sample, dict(type="nms", iou_threshold=0.5), 10).pred_instances
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7])
    iou = bbox_overlaps(boxes[:1], boxes[1:2]).item()
    weight = math.exp(-((1 - iou) ** 2) / 0.02) * math.e
    x2 = (30 + weight * 34) / (1 + weight)
    expected = torch.tensor([[10.0, 10, x2, 30], [70.0, 10, 80, 30]]) / 2  # the second is clipped
    torch.testing.assert_close(kept.bboxes, expected)


def test_only_detectors_that_suppress_have_neighbours() -> None:
    for head, expected in (
        (dict(nms=dict(type="nms", iou_threshold=0.65), score_thr=0.01), 0.01),
        (dict(nms=dict(type="nms", iou_threshold=0.5)), 0.05),
        (dict(max_per_img=300), None),
        (None, None),
    ):
        detector = torch.nn.Module()
        detector.bbox_head = torch.nn.Module()
        detector.bbox_head.test_cfg = head and ConfigDict(head)
        found = nms_of(detector)
        assert (found and found["score_thr"]) == expected


def test_a_regressor_over_mirror_images_answers_alike(neck) -> None:
    """Offsets of the mirror image are the mirrored offsets; those of one view are not."""
    torch.manual_seed(0)
    regressor = BoxRegressor({"type": "EBMBBoxHead", **HEAD, "roi_shift": -0.5}).eval()
    torch.nn.init.normal_(regressor.fc_energy.weight)
    mean, maps = FlipMean(regressor, ("", *FLIPS), (80, 80)), neck[0]

    def asked(image, boxes):
        feats = mean.prepare([(mirror(image, flip),) for flip in mean.flips])
        return FlippedRegressor(mean).offsets(feats, boxes, IMAGE)

    here = asked(maps, GT)
    there = asked(mirror(maps, "horizontal"), mirror_boxes(GT, "horizontal", (80, 80)))
    torch.testing.assert_close(there * torch.tensor([-1.0, 1, 1, 1]), here)
    alone = regressor.offsets(regressor.prepare(neck), GT, IMAGE)
    assert (alone - here).abs().max() > 0.05
