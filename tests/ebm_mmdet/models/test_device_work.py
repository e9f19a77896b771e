"""What a refinement asks of a GPU, counted without one: operations, and waits of the host."""

from __future__ import annotations

import contextlib

import pytest
import torch
from mmdet.registry import TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, instance_data

from ebm_mmdet.energy import gradient_ascent, importance, refinement
from ebm_mmdet.energy.host_reads import FEW, records_graph, without_reads
from ebm_mmdet.models import EBMBBoxHead, EnergyGuidedNMS, EnergyHead
from tests.ebm_mmdet.models.device_work import DeviceWork
from tests.ebm_mmdet.models.toys import build, ebm_cfg, energy_head_cfg
from tests.tolerances import TOLERANCE

pytest.importorskip("triton")

BOXES, STEPS = 100, 10
CHECK = "check of labels and images"
STEP = [8e-4, 8e-4, 3.2e-3, 3.2e-3]
SIZE = 1024
STRIDES = (4, 8, 16, 32)


def boxes_of_all_levels(count: int = BOXES) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    corner, shape = torch.rand(2, count, 2, generator=generator).unbind()
    side = 20 * 2 ** (5 * torch.rand(count, 1, generator=generator))
    return torch.cat([100 * corner, 100 * corner + side * (0.7 + 0.6 * shape)], 1)


def feature_maps(device: str, images: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(images, 16, SIZE // stride, SIZE // stride) for stride in STRIDES]
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


def make_head(**settings) -> EBMBBoxHead:
    torch.manual_seed(0)
    head = EBMBBoxHead(**{k: v for k, v in energy_head_cfg(**settings).items() if k != "type"})
    torch.nn.init.normal_(head.fc_energy.weight, std=0.5)
    return head.eval()


@pytest.fixture
def work(monkeypatch) -> DeviceWork:
    counted = DeviceWork()

    def check(self, feats, batch_index, labels):
        if labels.device.type != "cpu" and not records_graph():
            counted.waits[CHECK] += 1

    # The device `meta` has no values to check; on a GPU this is one read.
    monkeypatch.setattr(EnergyHead, "check_targets", check)
    return counted


def climb(head: EBMBBoxHead, work: DeviceWork, steps: int, count: int = BOXES) -> None:
    """On the device ``meta``, where reading a value is an error."""
    head = head.to("meta")
    feats = head.prepare(feature_maps("meta"))
    zeros = torch.zeros(count, dtype=torch.int64, device="meta")
    boxes = boxes_of_all_levels(count).to("meta")
    with work:
        fn = head.log_density_fn(feats, boxes, zeros, zeros)
        gradient_ascent(fn, torch.zeros(count, 4, device="meta"), STEP, steps)


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 90),
        (dict(roi_shift=-0.5), 100),
        (dict(strides=[8], feature_levels=[1]), 80),
        (dict(level_rule="concat"), 95),
    ],
    ids=["four levels", "shifted", "one level", "concat"],
)
def test_a_step_waits_for_nothing_and_asks_for_few_operations(work, settings, most):
    head = make_head(**settings)
    climb(head, work, STEPS)
    with_steps, waits = work.operations.total(), dict(+work.waits)
    work.operations.clear()
    climb(head, work, 0)
    assert waits == {CHECK: 1}
    assert (with_steps - work.operations.total()) / STEPS <= most
    assert not work.wrong_strides


PRIOR = dict(std=[0.1, 0.1, 0.2, 0.2])
CLIMB = dict(type="GradientAscentRefiner", num_steps=STEPS, step_size=STEP)
STARTS = dict(num_starts=4, start_std=0.1)  # 800 points of 2 images, more than a GPU does in one go
NMS = dict(candidates=EnergyGuidedNMS())
PER_BOX = CLIMB | dict(step_size=None, prior=dict(std="per_box"))
# "cpu" reads labels and scores, "bool" covariances, "tolist" survivors, "int" sample sizes.
BATCHES = {
    "step size": (2, {}, CLIMB, {"cpu": 1}),
    "prior": (2, {}, CLIMB | dict(step_size=None, prior=PRIOR), {"cpu": 1}),
    "prior and step size": (2, {}, CLIMB | dict(prior=PRIOR), {"cpu": 1}),
    "prior per box": (2, {}, PER_BOX, {"cpu": 1, "bool": 1}),
    "min_score, 1 image": (1, dict(min_score=0.05), CLIMB, {"cpu": 1}),
    "min_score, 4 images": (4, dict(min_score=0.05), CLIMB, {"cpu": 1}),
    "min_score, prior per box": (2, dict(min_score=0.05), PER_BOX, {"cpu": 1, "bool": 1}),
    "min_score, modes": (
        1,
        dict(min_score=0.05),
        CLIMB | STARTS | dict(num_modes=2),
        {"cpu": 1, "int": 1},
    ),
    "several starts": (2, {}, CLIMB | STARTS, {"cpu": 1}),
    "several starts, tolerance": (
        2,
        {},
        CLIMB | STARTS | dict(tolerance=0.01),
        {"cpu": 1, "nonzero": 2},
    ),
    "modes": (2, {}, CLIMB | STARTS | dict(num_modes=2), {"cpu": 1, "int": 1}),
    "mean": (2, {}, dict(type="ImportanceMeanRefiner", prior=PRIOR), {"cpu": 1, "int": 1}),
    "mean, prior per box": (
        2,
        {},
        dict(type="ImportanceMeanRefiner", prior=dict(std="per_box")),
        {"cpu": 1, "bool": 1, "int": 1},
    ),
    "candidates, 1 image": (1, NMS, CLIMB, {"cpu": 1, "tolist": 1}),
    "candidates, 4 images": (4, NMS, CLIMB, {"cpu": 1, "tolist": 4}),
    "candidates, prior per box": (1, NMS, PER_BOX, {"cpu": 1, "tolist": 1, "bool": 1}),
    "candidates, min_score": (
        1,
        NMS | dict(min_score=0.05),
        CLIMB,
        {"cpu": 1, "tolist": 1},
    ),
}


@pytest.fixture(scope="module")
def model():
    return build(ebm_cfg("faster_rcnn")).to("meta")


@pytest.mark.filterwarnings("ignore:.* effective sample size")
@pytest.mark.parametrize(("images", "options", "refiner", "waits"), BATCHES.values(), ids=BATCHES)
def test_a_batch_of_images_is_refined_with_few_waits(
    work, model, monkeypatch, images, options, refiner, waits
):
    """All of ``EBMDetector.refine``: candidates, scaling, climb, clipping, fields of the result.

    The numbers of docs/results.md, "Precise RoI pooling".
    """
    monkeypatch.setattr(importance._Warned, "already", False)
    # mmengine knows the tensors of devices by their types, which `meta` has none of.
    monkeypatch.setattr(instance_data, "IndexType", torch.Tensor | str)
    # Without values, all targets remain.
    monkeypatch.setattr(torch.fx.experimental._config, "meta_nonzero_assume_all_nonzero", True)
    model.refiner = TASK_UTILS.build(dict(refiner))
    model.min_score, model.candidates = options.get("min_score", 0.0), options.get("candidates")
    samples = []
    for _ in range(images):
        meta = dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE // 2, SIZE // 2), scale_factor=(2, 2))
        sample = DetDataSample(metainfo=meta)
        sample.pred_instances = InstanceData(
            bboxes=boxes_of_all_levels().to("meta"),
            scores=torch.ones(BOXES, device="meta"),
            labels=torch.zeros(BOXES, dtype=torch.int64, device="meta"),
            box_cov=torch.zeros(BOXES, 4, 4, device="meta"),
        )
        samples.append(sample)
    feats = model.energy_head.prepare(feature_maps("meta", images=images))
    with work, torch.no_grad(), work.reading_ones():
        model.refine(feats, samples, rescale=True)
    assert +work.waits == waits
    found = samples[-1].pred_instances
    assert found.log_density.shape == found.scores.shape


def test_a_read_is_found():
    """The counter itself: what waits for a GPU is an error on ``meta``, or is counted."""
    x = torch.ones(3, device="meta")
    for read in (lambda: x.any().item(), lambda: bool(x.any()), lambda: x.tolist()):
        with pytest.raises((RuntimeError, NotImplementedError)), DeviceWork():
            read()
    for wait in (lambda: x.new_tensor([1.0, 2.0]), lambda: torch.tensor([1.0], device="meta")):
        with DeviceWork() as work:
            wait()
        assert work.waits.total() == 1
    with DeviceWork() as work:
        torch.tensor([1.0]).to("meta", non_blocking=True)
    assert work.waits.total() == 0
    assert work.from_host.total() == 1


def test_f_of_any_number_of_boxes_waits_for_nothing(work):
    head = make_head().to("meta")
    feats = head.prepare(feature_maps("meta"))
    boxes = boxes_of_all_levels(5000).to("meta")
    zeros = torch.zeros(5000, dtype=torch.int64, device="meta")
    with work:
        y = torch.zeros(5000, 1, 4, device="meta", requires_grad=True)
        torch.autograd.grad(
            head.evaluate(feats, head.decode(y, boxes[:, None]), zeros, zeros), y, y[..., 0]
        )
    assert not +work.waits


class Waves:
    """Nearly as many points as a GPU does in one go; bits of f do not depend on the batch."""

    def __init__(self) -> None:
        self.evaluated = []

    def __call__(self, y):
        self.evaluated.append(len(y))
        wave = torch.sin(5 * y[..., 0]) + torch.cos(3 * y[..., 1])
        return torch.where(y[..., 0] > 1.5, torch.nan, wave)

    def select(self, index):
        return self


@contextlib.contextmanager
def on_a_gpu():
    """The way of a GPU, with values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refinement, "pays_to_read", lambda device, rows: rows > FEW)
        yield


@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
@pytest.mark.parametrize(("points", "steps"), [(100, 20), (600, 3), (600, 40), (600, 70)])
def test_climb_of_a_gpu_equals_the_climb_that_leaves_targets_out(points, steps, tolerance):
    """Bit for bit: without reads, with some, and where nothing is left before the last step."""
    y0 = 2 * torch.randn(points // 2, 2, 2, generator=torch.Generator().manual_seed(0))
    y0[4, 1, 0] = torch.inf
    y0[5] = torch.nan
    found, evaluated = [], []
    for mode in (contextlib.nullcontext, without_reads, on_a_gpu):
        f = Waves()
        with mode():
            found.append(
                gradient_ascent(f, y0, [0.7, 0.2], steps, return_trace=True, tolerance=tolerance)
            )
        evaluated.append(f.evaluated)
    expected = [*found[0][:3], *found[0].trace]
    for other in found[1:]:
        for a, b in zip(expected, [*other[:3], *other.trace], strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True)
    assert 0 < found[0].accepted.float().mean() < steps
    assert set(evaluated[1]) == {len(y0)}
    looks = points > FEW and steps >= (4 if tolerance else 16)
    assert (len(evaluated[2]) <= steps or min(evaluated[2]) < len(y0)) == looks


def test_f_compiles_as_one_graph_with_its_gradient():
    head = make_head()
    feats, boxes = head.prepare(feature_maps("cpu")), boxes_of_all_levels(20)
    labels = torch.arange(20) % head.num_classes
    fn = head.log_density_fn(feats, boxes, torch.zeros_like(labels), labels)
    compiled = torch.compile(lambda y: fn(y), fullgraph=True, backend="aot_eager")
    found = []
    for function in (fn, compiled):
        y = torch.full((20, 2, 4), 0.01, requires_grad=True)
        f = function(y)
        found.append([f, *torch.autograd.grad(f.sum(), y)])
    for a, b in zip(*found):
        torch.testing.assert_close(b, a, **TOLERANCE[torch.float32])
