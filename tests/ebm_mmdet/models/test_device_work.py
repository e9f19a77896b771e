"""What a refinement asks of a GPU, counted without one: operations, and waits of the host."""

from __future__ import annotations

import contextlib

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from ebm_mmdet.energy import gradient_ascent
from ebm_mmdet.energy.host_reads import without_reads
from ebm_mmdet.models import EBMBBoxHead, EnergyHead
from tests.ebm_mmdet.models.device_work import DeviceWork
from tests.ebm_mmdet.models.toys import build, ebm_cfg, energy_head_cfg
from tests.tolerances import TOLERANCE

pytest.importorskip("triton")

BOXES, STEPS = 100, 10
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
        counted.waits["check of labels and images"] += 1

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
    assert waits == {"check of labels and images": 1}
    assert (with_steps - work.operations.total()) / STEPS <= most
    assert not work.wrong_strides


@pytest.mark.parametrize(
    ("options", "checks"),
    [(dict(step_size=STEP), 0), (dict(prior=dict(std=[0.1, 0.1, 0.2, 0.2])), 2)],
    ids=["step size", "prior"],
)
def test_a_batch_of_images_is_refined_with_few_waits(work, options, checks):
    """All of ``EBMDetector.move``: scaling, climb, clipping, and the fields of the result.

    With a prior, its standard deviations and the steps that follow from them are checked too.
    """
    refiner = dict(type="GradientAscentRefiner", num_steps=STEPS, **options)
    model = build(ebm_cfg("faster_rcnn", refiner=refiner)).to("meta")
    samples = []
    for _ in range(2):
        meta = dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE // 2, SIZE // 2), scale_factor=(2, 2))
        sample = DetDataSample(metainfo=meta)
        sample.pred_instances = InstanceData(
            bboxes=boxes_of_all_levels().to("meta"),
            scores=torch.ones(BOXES, device="meta"),
            labels=torch.zeros(BOXES, dtype=torch.int64, device="meta"),
        )
        samples.append(sample)
    feats = model.energy_head.prepare(feature_maps("meta", images=2))
    with work, torch.no_grad(), work.passing_checks():
        model.move(feats, samples, rescale=True)
    assert work.waits.total() == 1 + checks
    assert work.waits["check"] == checks
    assert samples[1].pred_instances.log_density.shape == (BOXES,)


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


def test_climb_without_reads_equals_the_climb_that_leaves_targets_out():
    """Bit for bit, for an f whose bits do not depend on the batch."""

    def f(y):
        wave = torch.sin(5 * y[..., 0]) + torch.cos(3 * y[..., 1])
        return torch.where(y[..., 0] > 1.5, torch.nan, wave)

    y0 = 2 * torch.randn(50, 2, 2, generator=torch.Generator().manual_seed(0))
    y0[4, 1, 0] = torch.inf
    y0[5] = torch.nan
    found = []
    for mode in (contextlib.nullcontext, without_reads):
        with mode():
            found.append(gradient_ascent(f, y0, [0.7, 0.2], 20, return_trace=True))
    for a, b in zip([*found[0][:3], *found[0].trace], [*found[1][:3], *found[1].trace]):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert 0 < found[0].accepted.float().mean() < 20


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
