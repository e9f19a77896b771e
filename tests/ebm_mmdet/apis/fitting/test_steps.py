"""Training goes on exactly where it stopped; tuning and judging see a gain where there is one."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import PARAM_SCHEDULERS, TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import nn

from ebm_mmdet.apis.config_text import plain
from ebm_mmdet.apis.feature_cache import TrainingView
from ebm_mmdet.apis.fitting import detections, tuning
from ebm_mmdet.apis.fitting.clock import Clock
from ebm_mmdet.apis.fitting.data import FitData
from ebm_mmdet.apis.fitting.detections import Detected, Method
from ebm_mmdet.apis.fitting.image_set import ImageSet
from ebm_mmdet.apis.fitting.images import Images
from ebm_mmdet.apis.fitting.judging import Judging, judge_rows
from ebm_mmdet.apis.fitting.plan import Measured, Plan, make_plan
from ebm_mmdet.apis.fitting.progress import Progress
from ebm_mmdet.apis.fitting.residuals import measure_residuals
from ebm_mmdet.apis.fitting.steps import Steps
from ebm_mmdet.apis.fitting.training import HeadTraining, learning_rate_factor
from ebm_mmdet.apis.fitting.tuning import tune, tuned_methods
from ebm_mmdet.apis.fitting.views import Batches
from ebm_mmdet.apis.head_settings import schedule
from ebm_mmdet.files import read_json
from ebm_mmdet.models.box_coding import decode_boxes, encode_boxes
from ebm_mmdet.models.detectors import EBMDetector


@pytest.fixture
def clock(tmp_path):
    """A clock of which every reading is a second later."""
    ticks = itertools.count()
    return Clock(tmp_path / "clock.json", 1e6, lambda: float(next(ticks)))


def test_the_clock_counts_across_calls(tmp_path):
    now = [100.0]
    clock = Clock(tmp_path / "clock.json", 60, lambda: now[0])
    now[0] += 45
    clock.save()
    again = Clock(tmp_path / "clock.json", 60, lambda: now[0])
    now[0] += 10
    assert (again.used(), again.left()) == (55, 5)
    now[0] += 100
    assert again.left() == 0


def test_learning_rate_is_that_of_the_written_config():
    look = SimpleNamespace(trunk=None)
    settings = plain(schedule(look, 1000))
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedulers = [
        PARAM_SCHEDULERS.build(each, default_args=dict(optimizer=optimizer))
        for each in settings["param_scheduler"]
    ]
    for iteration in range(1000):
        expected = optimizer.param_groups[0]["lr"]
        # mmengine's warm-up ends an iteration earlier.
        assert learning_rate_factor(iteration / 1000) == pytest.approx(expected, abs=0.015)
        optimizer.step()
        for each in schedulers:
            each.step()
    shares = (0, 0.05, 0.525, 1, 1.2)
    found = [learning_rate_factor(share) for share in shares]
    assert found == pytest.approx([1 / 3, 1, 0.505, 0.01, 0.01])


@pytest.mark.parametrize("max_iters", [1, 2, 10])
def test_the_shortest_schedule_can_be_built(max_iters):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    for each in plain(schedule(SimpleNamespace(trunk=(8,)), max_iters))["param_scheduler"]:
        PARAM_SCHEDULERS.build(each, default_args=dict(optimizer=optimizer))


class Line(nn.Module):
    """A head that learns w of maps · w."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))

    def prepare(self, maps):
        return maps

    def loss(self, feats, boxes, batch_index, labels):
        noise = torch.randn(3)
        return {"loss_energy": ((feats[0].flatten() * self.w - noise) ** 2).mean()}


OPTIMIZER = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.1))


def draw(generator):
    none = torch.zeros(0)
    return [torch.randn(1, 3, 1, 1, generator=generator)], none, none, none


def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path, clock):
    def training(name):
        return HeadTraining(dict(energy=Line()), OPTIMIZER, tmp_path / name, 40, seed=1)

    whole = training("whole.pth")
    whole.run(draw, 1e9, clock)
    drawn = itertools.count()

    def stops(generator):
        if next(drawn) == 17:
            raise KeyboardInterrupt
        return draw(generator)

    first = training("half.pth")
    with pytest.raises(KeyboardInterrupt):
        first.run(stops, 1e9, clock)
    assert first.iteration == 17
    assert not first.finished
    rest = training("half.pth")
    assert rest.iteration == 17
    rest.run(draw, 1e9, clock)
    assert rest.finished
    assert torch.equal(rest.heads["energy"].w, whole.heads["energy"].w)
    assert training("half.pth").finished


def test_training_ends_with_its_time(tmp_path, clock):
    training = HeadTraining(dict(energy=Line()), OPTIMIZER, tmp_path / "a.pth", 10**9)
    training.run(draw, 30.0, clock)
    assert training.finished
    assert 5 <= training.iteration <= 30  # each iteration reads the clock at least once


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path, clock):
    def bad(generator):
        maps, *rest = draw(generator)
        return [maps[0] * float("nan")], *rest

    training = HeadTraining(dict(energy=Line()), OPTIMIZER, tmp_path / "a.pth", 10)
    with pytest.raises(RuntimeError, match="loss of the energy head is nan at iteration 0"):
        training.run(bad, 1e9, clock)


@pytest.mark.parametrize(("gigabytes", "cached"), [(10 * 48 / 2**30, 10), (3 * 48 / 2**30, 0)])
def test_features_are_cached_if_one_version_of_all_fits(clock, gigabytes, cached):
    view = TrainingView(
        (torch.zeros(3, 2, 2),), torch.ones(2, 4), torch.zeros(2).long()
    )  # 48 bytes
    batches = Batches(lambda index: view, range(5), gigabytes * 2**30, 1e9, clock)
    assert len(batches.cache) == cached
    maps, boxes, index, labels = batches.draw(torch.Generator().manual_seed(0))
    assert len(boxes) == len(index) == len(labels) == 2 * len(maps[0])


SIDE = 200.0
TRUTH = [torch.tensor([[20.0, 30, 90, 100], [110, 40, 170, 150]]) + 3 * i for i in range(24)]


class Answers(nn.Module):
    """A head that knows the objects: f = -|y - y*|² / (2 · 0.01²); its offsets are zeros."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def prepare(self, maps):
        return maps

    def log_density_fn(self, feats, reference, batch_index, labels):
        return Peak(self, TRUTH[int(feats[0].flatten()[0])], reference, feats, batch_index)

    def offsets(self, feats, boxes, batch_index):
        return torch.zeros(len(boxes), 4)


class Peak:
    def __init__(self, head, truth, reference, feats, batch_index) -> None:
        self.head, self.truth, self.reference = head, truth, reference
        self.feats, self.batch_index = feats, batch_index

    def __call__(self, y):
        best = encode_boxes(self.truth, self.reference)
        return -(y - best[:, None]).square().sum(-1) / (2 * 0.01**2)

    def select(self, index):
        picked = self.truth[index], self.reference[index], self.feats, self.batch_index[index]
        return Peak(self.head, *picked)


class Given:
    """A data set of annotations alone."""

    def __len__(self):
        return len(TRUTH)

    def __getitem__(self, index):
        return dict(inputs=index, data_samples=None)

    def get_data_info(self, index):
        boxes = TRUTH[index].tolist()
        return dict(instances=[dict(bbox=box, bbox_label=i) for i, box in enumerate(boxes)])


def boxes_of(indices) -> torch.Tensor:
    return torch.cat([detected(i).sample.pred_instances.bboxes for i in indices])


def detected(index: int) -> Detected:
    """Both objects, each a little beside its place."""
    generator = torch.Generator().manual_seed(index)
    wrong = torch.tensor([0.03, -0.02, 0.05, 0.04]) + 0.04 * torch.randn(2, 4, generator=generator)
    found = InstanceData(
        bboxes=decode_boxes(wrong, TRUTH[index]),
        scores=torch.tensor([0.9, 0.6]),
        labels=torch.tensor([0, 1]),
    )
    meta = dict(img_shape=(400, 400), ori_shape=(400, 400), scale_factor=(1.0, 1.0))
    maps = (torch.full((1, 1, 1, 1), float(index)),)
    return Detected(maps, DetDataSample(metainfo=meta, pred_instances=found), 0.01)


@pytest.fixture
def model():
    """The wrapper without a detector; what is tested begins after the detector."""
    model = EBMDetector.__new__(EBMDetector)
    nn.Module.__init__(model)
    model.energy_head, model.refiner = Answers(), None
    model.min_score, model.clip_boxes, model.candidates = 0.0, True, None
    model.legacy_plus_one = False
    return model


class Seen(Images):
    """Images whose detections are given."""

    def __init__(self, detected) -> None:
        self.detected = detected

    def detect(self, model, item, max_dets):
        return self.detected(item["inputs"])


BASE = dict(type="GradientAscentRefiner", step_size=1e-7, num_steps=10, decay=0.5)


def test_a_head_that_knows_the_objects_pays(model, tmp_path, clock):
    heads = dict(energy=Answers(), l1=Answers())
    images = ImageSet(Given(), range(len(TRUTH)))
    positions = list(range(12))
    kind = Seen(detected)
    only_tuning = FitData(None, [], tune=ImageSet(Given(), positions), **FACTS)
    path = tmp_path / "residuals.json"
    measured = measure_residuals(kind, model, only_tuning, path, 1e9, clock, 0)
    tuned = tune(
        kind,
        model,
        heads,
        [detected(i) for i in positions],
        images,
        positions,
        measured,
        BASE,
        2,
        1e9,
        clock,
    )
    assert tuned.residuals == 24
    assert "prior" in tuned.refiner  # the step to begin with is far too short
    assert tuned.ap_after > tuned.ap_before + 0.2
    assert tuned.complete
    assert max(abs(x) for x in tuned.offset) > 0.01
    assert model.energy_head is not heads["energy"]
    assert (model.min_score, model.clip_boxes) == (0.0, True)

    methods = tuned_methods(kind, heads, tuned)
    judge = Judging(tmp_path / "judging", kind, images, 2, seed=0)
    judge.run(model, methods, 10.0, clock)
    some = len(judge.results)
    assert 1 <= some < len(TRUTH)  # the time was over
    judge = Judging(tmp_path / "judging", kind, images, 2, seed=0)  # as after an interruption
    assert len(judge.results) == some
    judge.run(model, methods, 1e9, clock)
    assert sorted(each["position"] for each in judge.results) == list(range(len(TRUTH)))

    rows = judge_rows(judge, 0.1)
    assert [row["method"] for row in rows] == [method.name for method in methods]
    detector, constant, regression, energy = rows
    assert regression["AP"] == detector["AP"]  # its offsets are zeros
    assert energy["change_AP"] > 20
    assert energy["change_AP"] > 2 * energy["error_AP"]
    assert energy["change_AP"] > constant["change_AP"]
    assert energy["IoU_TP"] > 97
    assert np.isclose(energy["AP"] - detector["AP"], energy["change_AP"], atol=2e-3)
    assert energy["ms_per_image"] >= detector["ms_per_image"] == 10.0


@pytest.mark.parametrize(("left", "complete"), [(1e6, True), (40.0, False)])
def test_tuning_takes_what_the_training_has_left(model, tmp_path, left, complete):
    """The plan gives it a second; iterations that ended before their time leave more."""
    ticks = itertools.count()
    clock = Clock(tmp_path / "clock.json", left, lambda: float(next(ticks)))
    data = FitData(None, [], tune=ImageSet(Given(), range(4)), **FACTS)
    residuals = 0.05 * torch.randn(20, 4)
    steps = Steps.__new__(Steps)
    steps.kind, steps.data, steps.model, steps.folder = Seen(detected), data, model, tmp_path
    steps.clock, steps.say, steps.about_data = clock, print, dict(residuals=residuals)
    steps.cfg = Config(dict(model=dict(refiner=BASE)))
    steps.num_classes, steps.max_dets = 2, 100
    plan = Plan(0.0, 0.0, 1.0, 10.0, 10.0, 4, 1, True)
    tuned = steps._tune(plan, dict(energy=Answers(), l1=Answers()))
    assert (tuned.images >= 1, tuned.complete) == (True, complete)


@pytest.mark.parametrize("compares_on_few", [False, True])
def test_an_interrupted_tuning_ends_as_one_that_was_not(
    model, tmp_path, monkeypatch, compares_on_few
):
    """Wherever it is stopped: no setting is compared twice, and the result is the same."""
    if compares_on_few:  # then the best setting is moved once more, with all boxes
        monkeypatch.setattr(tuning, "comparing_score", lambda *_: 0.7)
    calls, stop_at = [], [10**9]
    real = tuning.Compared.add

    def stops(self, setting, ap):
        calls.append(json.dumps(setting))
        if len(calls) == stop_at[0]:
            raise KeyboardInterrupt
        real(self, setting, ap)

    monkeypatch.setattr(tuning.Compared, "add", stops)

    def result(folder):
        folder.mkdir(exist_ok=True)
        ticks = itertools.count()
        clock = Clock(folder / "clock.json", 1e6, lambda: float(next(ticks)))
        data = FitData(None, [], tune=ImageSet(Given(), range(2)), **FACTS)
        steps = Steps.__new__(Steps)
        steps.kind, steps.data, steps.model, steps.folder = Seen(detected), data, model, folder
        residuals = encode_boxes(torch.cat(TRUTH[:12]), boxes_of(range(12)))
        steps.clock, steps.say, steps.about_data = clock, print, dict(residuals=residuals)
        steps.cfg = Config(dict(model=dict(refiner=BASE)))
        steps.num_classes, steps.max_dets = 2, 100
        plan = Plan(0.0, 0.0, 1e5, 10.0, 10.0, 2, 1, True)
        return steps._tune(plan, dict(energy=Answers(), l1=Answers()))

    whole, every = result(tmp_path / "whole"), list(calls)
    assert "prior" in whole.refiner
    assert whole.ap_after > whole.ap_before
    for number in (1, 3, 6, len(every) - 1, len(every)):
        calls.clear()
        folder, stop_at[0] = tmp_path / str(number), number
        with pytest.raises(KeyboardInterrupt):
            result(folder)
        assert read_json(folder / "clock.json")["seconds"] > 0
        stop_at[0] = 10**9
        assert result(folder) == whole
        assert calls[number:] == every[number - 1 :]
        assert read_json(folder / "tuning.json") == read_json(tmp_path / "whole" / "tuning.json")


def test_progress_keeps_the_time_of_a_long_step(tmp_path):
    now = [0.0]
    clock = Clock(tmp_path / "clock.json", 1e6, lambda: now[0])
    progress = Progress("measuring", lambda line: None, clock)
    for now[0] in (1.0, 29.0):
        progress(0.1)
        assert not clock.path.exists()
    for now[0], kept in ((31.0, 31.0), (60.0, 31.0), (62.0, 62.0)):
        progress(0.2)
        assert read_json(clock.path)["seconds"] == kept


PRIOR = ([0.04, 0.04, 0.1, 0.1], [0.01, 0.0, 0.0, 0.0])


def tried(base, prior, ap, regresses=False):
    """The settings that are tried, in order, where ``ap`` says how good each is."""
    best, best_ap, every = dict(base), -1.0, []
    for settings in tuning._rounds(base, prior, regresses):
        for each in settings(best):
            every.append(each)
            if ap(each) > best_ap:
                best, best_ap = each, ap(each)
    return every, best


def test_a_prior_is_tried_before_steps():
    """Where time ends early, what is left is what most likely gains."""
    every, _ = tried(BASE, PRIOR, lambda setting: 0.0)
    assert ["prior" in each for each in every].index(False) == 5  # four strengths, and the bias
    assert every[0]["prior"]["scale"] == pytest.approx((1 / 8) ** 0.5, abs=1e-3)
    assert "step_size" not in every[0]


@pytest.mark.parametrize(
    ("wins", "last"),
    [
        # The best regression, then the base's climb from there.
        (lambda each: each.get("regression_length") == 0.5, dict(BASE, regression_length=0.5)),
        # The best climb, from where the regression has led.
        (lambda each: "prior" in each, dict(regression_steps=1, num_steps=10)),
    ],
)
def test_regression_is_tried_first_and_then_with_the_best_climb(wins, last):
    every, best = tried(BASE, PRIOR, lambda each: float(wins(each)), regresses=True)
    assert [each["num_steps"] for each in every[:3]] == [0, 0, 0]
    assert "prior" in every[3]
    assert not any("regression_steps" in each for each in every[3:-1])
    assert last.items() <= every[-1].items()
    assert every[-1]["regression_steps"] == 1
    assert len(every) <= tuning.MOST_SETTINGS
    assert wins(best)
    for each in every:
        TASK_UTILS.build(dict(each))


def strength(setting):
    return setting["prior"]["scale"] ** 2 if "prior" in setting else None


@pytest.mark.parametrize(
    ("peak", "expected"), [(8.0, 8.0), (1 / 128, 1 / 128), (1 / 2, 1 / 2), (1e3, 8.0)]
)
def test_a_best_strength_at_the_end_is_not_the_last(peak, expected):
    def ap(setting):
        if "prior" not in setting:
            return -0.5
        return 1 / (1 + abs(np.log(strength(setting) / peak)))

    every, best = tried(BASE, PRIOR, ap)
    assert strength(best) == pytest.approx(expected, rel=1e-2)
    assert len(every) <= tuning.MOST_SETTINGS


@pytest.mark.parametrize(("factor", "listed"), [(16.0, True), (1 / 16, False), (4.0, False)])
def test_a_best_step_at_the_end_is_not_the_last(factor, listed):
    base = {**BASE, "step_size": [1e-4, 2e-4] if listed else 1e-4}

    def ap(setting):
        step = setting.get("step_size")
        if step is None:
            return 0.0
        return 1 / (1 + abs(np.log((step[0] if listed else step) / (1e-4 * factor))))

    _, best = tried(base, PRIOR, ap)
    expected = [1e-4 * factor, 2e-4 * factor] if listed else 1e-4 * factor
    assert best["step_size"] == pytest.approx(expected)


def test_a_larger_min_score_needs_no_refinement(model):
    """Boxes above it are where they are with all boxes refined, the others where they were."""
    head, image = Answers(), detected(0)
    refiner = TASK_UTILS.build({**BASE, "step_size": 1e-5})

    def records(method):
        return Images().records(0, detections.refine(model, method, image)[0], 2)

    whole, part = (records(Method("x", refiner, head, low)) for low in (0.0, 0.7))
    unmoved = records(detections.unrefined(head))
    mixed = tuning._moved_above(0.7, whole, unmoved)
    assert mixed == part
    assert [one == other for one, other in zip(mixed, unmoved)] == [False, True]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.31, 0.02], 0.3),
        ([0.9, 0.8, 0.25, 0.02, 0.01], 0.2),
        ([0.9, 0.11, 0.1, 0.05, 0.01], 0.1),
        ([0.9, 0.06, 0.05, 0.05, 0.01], 0.05),
        ([0.9, 0.04, 0.04, 0.04, 0.01], 0.0),
        ([], 0.0),
    ],
)
def test_settings_are_compared_on_one_and_a_half_boxes_per_object(scores, expected):
    found = InstanceData(bboxes=torch.zeros(len(scores), 4), scores=torch.tensor(scores))
    image = Detected((), DetDataSample(pred_instances=found), 0.0)
    assert tuning.comparing_score(Images(), [image], objects=2) == expected


def test_time_is_divided_as_promised():
    train, tune_set = [0] * 100, ImageSet(Given(), range(24))
    data = FitData(None, train, tune=tune_set, **{**FACTS, "judge": tune_set})
    costs = dict(detect_s=0.1, refine_s=0.4, view_s=0.05, view_bytes=1000, step_s=0.2)
    plan = make_plan(Measured(compare_s=0.08, **costs), data, 300, 4.0)
    parts = plan.cache_s + plan.train_s + plan.tune_s + plan.judge_s + plan.end_s
    assert parts == pytest.approx(300)
    assert plan.tune_s <= 300 / 7
    assert plan.judge_s <= 300 / 4
    # Fewer boxes to compare settings on are more images in the same time.
    all_boxes = make_plan(Measured(compare_s=0.4, **costs), data, 300, 4.0)
    assert plan.tune_images == 24 > all_boxes.tune_images >= 7


FACTS = dict(images=1, boxes=1, held_out=frozenset(), judge=None, most_objects=2)
FACTS |= dict(judged_on_training_images=False, notes=[], rest=())


def test_residuals_are_truth_minus_detection_and_kept(model, tmp_path, clock):
    seen = []

    def some(item):
        seen.append(item)
        image = detected(item)
        if item == 0:
            image.sample.pred_instances.bboxes[0, 2] = float("inf")
        return image

    kind, rest = Seen(some), ImageSet(Given(), [5, 6, 7])
    data = FitData(None, [5, 6, 6, 7], tune=ImageSet(Given(), [0, 1]), **FACTS | dict(rest=rest))
    path = tmp_path / "residuals.json"
    found = measure_residuals(kind, model, data, path, 1e9, clock, 0)
    assert seen[:2] in ([0, 1], [1, 0])  # those to tune on are looked at first
    assert sorted(seen[2:]) == [5, 6, 7]
    assert found.shape == (9, 4)
    assert found.isfinite().all()
    expected = torch.cat(
        [encode_boxes(TRUTH[i], detected(i).sample.pred_instances.bboxes) for i in seen]
    )
    kept = [row for row in range(10) if row != 2 * seen.index(0)]
    torch.testing.assert_close(found, expected[kept], atol=1e-4, rtol=0)
    again = measure_residuals(kind, model, data, path, 1e9, clock, 0)
    assert len(seen) == 5
    torch.testing.assert_close(again, found, atol=1e-6, rtol=0)

    short = measure_residuals(kind, model, data, tmp_path / "short.json", 0.0, clock, 0)
    assert len(short) in (1, 2)  # one image, whatever the time


def test_a_detector_without_boxes_has_no_residuals(model, tmp_path, clock):
    def nothing(item):
        image = detected(item)
        return image._replace(sample=DetDataSample(pred_instances=image.sample.pred_instances[:0]))

    kind = Seen(nothing)
    data = FitData(None, [5], tune=ImageSet(Given(), [0]), **FACTS)
    for _ in range(2):
        found = measure_residuals(kind, model, data, tmp_path / "none.json", 1e9, clock, 0)
        assert found.shape == (0, 4)


def test_low_scores_count_where_there_are_few_others(model, tmp_path, clock):
    def unsure(item):
        image = detected(item)
        image.sample.pred_instances.scores *= 0.2
        return image

    kind = Seen(unsure)
    data = FitData(None, [], tune=ImageSet(Given(), range(4)), **FACTS)
    assert len(measure_residuals(kind, model, data, tmp_path / "a.json", 1e9, clock, 0)) == 8


def test_refine_puts_everything_back_after_an_error(model):
    def fails(*_, **__):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        detections.refine(model, detections.Method("x", fails, Answers(), 0.5), detected(0))
    assert (model.min_score, model.clip_boxes) == (0.0, True)
