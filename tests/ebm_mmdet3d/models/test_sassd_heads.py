"""BEV network, anchors, occupancy and part-sensitive warping of SA-SSD, against plain loops."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from mmdet3d.models.dense_heads import Anchor3DHead
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from ebm_mmdet3d.models import PSWarpHead, SASSDBEVNet, SASSDHead
from ebm_mmdet3d.models.sassd.occupancy import count_points
from tests.ebm_mmdet3d.models.sassd_toys import CARS, CELLS, RANGE, VOXEL, sassd_cfg
from tests.ebm_mmdet3d.models.toys import boxes as random_boxes
from tests.tolerances import TOLERANCE

SIZE = (CELLS // 8, CELLS // 8)


def head(**overrides) -> SASSDHead:
    torch.manual_seed(0)
    cfg = sassd_cfg()
    kwargs = {**cfg.bbox_head, "train_cfg": cfg.train_cfg, "test_cfg": cfg.test_cfg, **overrides}
    kwargs.pop("type")
    return SASSDHead(**kwargs)


# ------------------------------------------------------------------------------------ BEV network


def test_bev_net_has_seven_3x3_and_one_1x1():
    net = SASSDBEVNet()
    kernels = 9 * 256 * (320 + 6 * 256) + 256 * 256
    assert sum(p.numel() for p in net.parameters()) == kernels + 8 * 2 * 256
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(n.eps, n.momentum) for n in norms} == {(1e-3, 0.01)}
    assert len(norms) == 8


def test_conv6_is_a_module_of_its_own():
    net = SASSDBEVNet(in_channels=4, channels=6).eval()
    heard = []
    net.get_submodule("conv6").register_forward_hook(lambda _, __, out: heard.append(out))
    proposals, parts = net(torch.randn(2, 4, 5, 7))
    assert parts.shape == proposals.shape == (2, 6, 5, 7)
    assert parts is heard[0]
    assert (parts >= 0).all()
    assert torch.equal(net.get_submodule("conv7")(parts), proposals)


# ---------------------------------------------------------------------------------------- anchors


def test_anchors_lie_in_the_centres_of_cells():
    """x = 0.2 + 0.4 i, y = y_0 + 0.2 + 0.4 j, rows before columns before rotations."""
    anchors = head().anchors(SIZE, torch.device("cpu")).view(*SIZE, 2, 7)
    index = torch.arange(SIZE[0])
    torch.testing.assert_close(anchors[3, :, 0, 0], 0.2 + 0.4 * index)
    torch.testing.assert_close(anchors[:, 5, 1, 1], RANGE[1] + 0.2 + 0.4 * index)
    expected = torch.tensor([-1.78, 3.9, 1.6, 1.56]).expand(*SIZE, 2, 4)
    torch.testing.assert_close(anchors[..., 2:6], expected)
    # KITTI's rotation_y 0 and 1.57: yaw = -rotation_y - pi/2
    expected = torch.tensor([-math.pi / 2, -1.57 - math.pi / 2])
    torch.testing.assert_close(anchors[7, 2, :, 6], expected)


def released_area(coors, footprints, batch_size, grid, voxel_size, origin):
    """Points in footprints as the released code counts them, with exact arithmetic."""
    height, width = grid
    maps = np.zeros((batch_size, height, width), int)
    for b, _, row, column in coors.tolist():
        maps[b, row, column] += 1
    maps = maps.cumsum(1).cumsum(2)
    counts = []
    for x1, y1, x2, y2 in footprints:
        i1 = max(math.floor((x1 - Fraction(origin[0])) / Fraction(voxel_size[0])), 0)
        j1 = max(math.floor((y1 - Fraction(origin[1])) / Fraction(voxel_size[1])), 0)
        i2 = min(math.floor((x2 - Fraction(origin[0])) / Fraction(voxel_size[0])), width - 1)
        j2 = min(math.floor((y2 - Fraction(origin[1])) / Fraction(voxel_size[1])), height - 1)
        counts.append(maps[:, j2, i2] - maps[:, j2, i1] - maps[:, j1, i2] + maps[:, j1, i1])
    return torch.from_numpy(np.stack(counts, axis=1))


def test_occupancy_is_that_of_the_released_code():
    """Half of the edges lie on corners of voxels, where (x1, x2] and [x1, x2) differ."""
    rng = random.Random(3)
    grid, voxel_size, origin = (12, 10), ("0.5", "0.25"), ("-1", "0.5")
    g = torch.Generator().manual_seed(3)
    coors = torch.stack([torch.randint(0, n, (300,), generator=g) for n in (2, 4, *grid)], dim=1)
    footprints = []
    for i in range(200):
        steps = [Fraction(1), Fraction(1, 16)][i % 2]
        low = [Fraction(rng.randint(-3, 9)), Fraction(rng.randint(-3, 11))]
        low = [value + steps * rng.randint(0, 8) for value in low]
        high = [value + steps * rng.randint(8, 48) for value in low]
        # At least partly inside the grid, as anchors are; the released code reads elsewhere else.
        if min(high) >= 0 and low[0] < grid[1] and low[1] < grid[0]:
            footprints.append(
                [
                    Fraction(origin[k % 2]) + value * Fraction(voxel_size[k % 2])
                    for k, value in enumerate((*low, *high))
                ]
            )
    assert len(footprints) > 100
    numbers = [[float(v) for v in values] for values in (voxel_size, origin)]
    expected = released_area(coors, footprints, 2, grid, voxel_size, origin)
    # Rounded as float32 rounds them; none of that may matter.
    for shift in (0.0, 1e-5, -1e-5):
        boxes = torch.tensor([[float(v) + shift for v in box] for box in footprints])
        assert torch.equal(count_points(coors, boxes, 2, grid, *numbers), expected)
    assert expected.max() > 20


def test_a_column_belongs_to_the_footprint_below_it():
    """(x1, x2]: of two touching footprints, a column on their common edge belongs to the first."""
    grid, numbers = (8, 8), ((0.5, 0.5), (0.0, 0.0))
    footprints = torch.tensor([[1.0, 1.0, 2.0, 3.0], [2.0, 1.0, 3.0, 3.0], [-9.0, -9.0, 9.0, 9.0]])
    for column, expected in [(2, 0), (3, 1), (4, 1), (5, 2), (6, 2), (7, 0)]:
        counts = count_points(torch.tensor([[0, 0, 4, column]]), footprints, 1, grid, *numbers)
        assert counts[0].tolist() == [expected == 1, expected == 2, 1]
    # The first column and the first row belong to none.
    for row, column in [(0, 4), (4, 0)]:
        counts = count_points(torch.tensor([[0, 0, row, column]]), footprints, 1, grid, *numbers)
        assert not counts.any()


def test_an_anchor_needs_two_points():
    model = head()
    anchors = model.anchors(SIZE, torch.device("cpu"))
    coors = torch.tensor([[0, 3, 100, 120]])
    args = (1, (CELLS, CELLS), VOXEL, RANGE)
    assert not model.occupied_anchors(SIZE, coors, *args).any()
    occupied = model.occupied_anchors(SIZE, coors.repeat(2, 1), *args)[0]
    assert occupied.any()
    # (x1, x2], for the lower corner of the column; away from edges that are rounded.
    x, y = 0.05 * 120 - 1e-3, -6.4 + 0.05 * 100 - 1e-3
    near = LiDARInstance3DBoxes(anchors).nearest_bev
    over = (near[:, 0] < x) & (x <= near[:, 2]) & (near[:, 1] < y) & (y <= near[:, 3])
    assert torch.equal(occupied, over)


def anchor_head() -> Anchor3DHead:
    """mmdet3d's head of the same config."""
    cfg = sassd_cfg().bbox_head
    for name in ("type", "min_points"):
        cfg.pop(name)
    return Anchor3DHead(**cfg, train_cfg=sassd_cfg().train_cfg)


def test_of_one_frame_with_all_anchors_the_loss_is_mmdet3ds():
    model, theirs = head(), anchor_head()
    outs = model((torch.randn(1, 24, *SIZE),))
    everything = torch.ones(1, 2 * SIZE[0] * SIZE[1], dtype=torch.bool)
    labels = torch.zeros(2, dtype=torch.int32)
    ours = model.masked_loss(outs, everything, [CARS], [labels])
    gt = InstanceData(bboxes_3d=LiDARInstance3DBoxes(CARS), labels_3d=labels.long())
    expected = theirs.loss_by_feat(*outs, [gt], [{}])
    assert expected.keys() == ours.keys()
    for name, (value,) in expected.items():
        torch.testing.assert_close(ours[name], value)


def test_losses_are_normalised_by_frame():
    """loss = 1/B sum_b 1/max(P_b, 1) sum_a loss_ba; mmdet3d divides by the positives of all."""
    model, theirs = head(), anchor_head()
    frames = [CARS, CARS[:1], CARS[:0]]
    labels = [torch.zeros(len(cars), dtype=torch.long) for cars in frames]
    outs = model((torch.randn(3, 24, *SIZE),))
    everything = torch.ones(3, 2 * SIZE[0] * SIZE[1], dtype=torch.bool)
    batch = model.masked_loss(outs, everything, frames, labels)
    alone = [
        model.masked_loss(
            [[level[0][i : i + 1]] for level in outs], everything[i : i + 1], [cars], [label]
        )
        for i, (cars, label) in enumerate(zip(frames, labels))
    ]
    gt = [
        InstanceData(bboxes_3d=LiDARInstance3DBoxes(cars), labels_3d=label)
        for cars, label in zip(frames, labels)
    ]
    over_batch = theirs.loss_by_feat(*outs, gt, [{}] * 3)
    for name, value in batch.items():
        assert value.shape == ()
        torch.testing.assert_close(value, sum(losses[name] for losses in alone) / 3)
        assert abs(value - over_batch[name][0]) > 0.01 * value, "the frames are too much alike"


def test_masked_anchors_are_neither_trained_nor_proposed():
    model = head()
    outs = [[level[0].detach().requires_grad_()] for level in model((torch.randn(1, 24, *SIZE),))]
    occupied = torch.zeros(1, 2 * SIZE[0] * SIZE[1], dtype=torch.bool)
    # Around the first car: anchors of cells 5..15, both rotations.
    view = occupied.view(*SIZE, 2)
    view[16:26, 5:16] = True
    losses = model.masked_loss(outs, occupied, [CARS], [torch.zeros(2, dtype=torch.long)])
    sum(losses.values()).backward()
    for level in outs:
        grad = level[0].grad[0].abs().sum(0)
        assert grad[16:26, 5:16].any()
        grad[16:26, 5:16] = 0
        assert not grad.any()
    boxes, frame = model.guided_boxes(outs, occupied, 0.0)
    assert len(boxes) == len(frame) == occupied.sum()
    none = torch.zeros_like(occupied)
    assert len(model.guided_boxes(outs, none, 0.0)[0]) == 0
    losses = model.masked_loss(outs, none, [CARS], [torch.zeros(2, dtype=torch.long)])
    assert sum(losses.values()) == 0


@pytest.mark.parametrize("yaw", [0.3, 0.3 + math.pi, -1.4, 2.9, math.pi / 2 + 0.01])
def test_guided_boxes_invert_targets(yaw):
    """Regression and direction targets of a box, decoded, are that box, heading included."""
    model = head()
    car = CARS[:1].clone()
    car[0, 6] = yaw
    anchors = model.anchors(SIZE, torch.device("cpu"))
    mask = torch.ones(len(anchors), dtype=torch.bool)
    _, _, deltas, _, directions, *_ = model.anchor_target_single_assigner(
        model.bbox_assigner,
        anchors,
        InstanceData(bboxes_3d=car, labels_3d=torch.zeros(1, dtype=torch.long)),
        None,
        dict(occupied_anchors=mask),
    )
    positive = deltas.abs().sum(1) > 0
    assert positive.any()

    def as_map(rows):
        return [rows.view(1, *SIZE, -1).permute(0, 3, 1, 2)]

    direction_logits = torch.nn.functional.one_hot(directions, 2).float()
    outs = (
        as_map(torch.where(positive, 5.0, -5.0)),
        as_map(deltas),
        as_map(direction_logits.flatten()),
    )
    boxes, frame = model.guided_boxes(outs, mask[None], 0.1)
    assert len(boxes) == positive.sum()
    assert not frame.any()
    torch.testing.assert_close(boxes[:, :6], car[:, :6].expand(len(boxes), -1))
    turn = (boxes[:, 6] - yaw + math.pi) % (2 * math.pi) - math.pi
    assert turn.abs().max() < 1e-5


def test_one_class_only():
    with pytest.raises(ValueError, match="num_classes=3"):
        head(num_classes=3)


# -------------------------------------------------------------------------- part-sensitive warping


def warp_by_loops(maps, boxes, batch_index, origin, cell_size):
    """Mean over parts of a bilinear sample of the part's map at the part's point."""
    scores = []
    for (x, y, _, length, width, _, yaw), b in zip(boxes.tolist(), batch_index.tolist()):
        total = 0.0
        for ia in range(4):
            for ib in range(7):
                p, q = 0.5 - ib / 6, ia / 3 - 0.5
                px = x + p * length * math.cos(yaw) - q * width * math.sin(yaw)
                py = y + p * length * math.sin(yaw) + q * width * math.cos(yaw)
                u, v = (px - origin[0]) / cell_size, (py - origin[1]) / cell_size
                i, j = math.floor(u), math.floor(v)
                for row, wy in ((j, 1 - v + j), (j + 1, v - j)):
                    for column, wx in ((i, 1 - u + i), (i + 1, u - i)):
                        if 0 <= row < maps.shape[2] and 0 <= column < maps.shape[3]:
                            total += wx * wy * float(maps[b, ia * 7 + ib, row, column])
        scores.append(total / 28)
    return torch.tensor(scores)


def warp_head() -> PSWarpHead:
    torch.manual_seed(0)
    return PSWarpHead(in_channels=5).eval()


def test_pswarp_equals_loops():
    model = warp_head()
    bev = torch.randn(2, 5, 40, 48)
    boxes = random_boxes(9)
    boxes[0, 0] = -1.0  # partly outside
    boxes[1, 1] = 500.0  # outside
    batch_index = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 1])
    args = (boxes, batch_index, (0.0, -8.0), 0.4)
    with torch.no_grad():
        scores = model(bev, *args)
        expected = warp_by_loops(model.convs(bev), *args)
    torch.testing.assert_close(scores, expected, **TOLERANCE[torch.float32])
    assert scores[1] == 0
    assert scores[2:].abs().min() > 0


def test_pswarp_layers_and_gradients():
    model = PSWarpHead()
    assert sum(p.numel() for p in model.parameters()) == 9 * 256 * 28 + 2 * 28 + 28 * 28
    model = warp_head()
    boxes = random_boxes(4).requires_grad_()
    index = torch.zeros(4, dtype=torch.long)
    bev = torch.randn(1, 5, 40, 48, requires_grad=True)
    model(bev, boxes, index, (0.0, -8.0), 0.4).sum().backward()
    assert bev.grad.any()
    assert (boxes.grad[:, [0, 1, 3, 4, 6]] != 0).all()
    assert not boxes.grad[:, [2, 5]].any()


def test_pswarp_targets_and_normalisation():
    """Focal loss summed, over positives and frames; IoU in 3D, per frame."""
    model = warp_head()
    car = CARS[:1]
    boxes = car.repeat(5, 1)
    boxes[1, 0] += 0.3  # IoU 0.86
    boxes[2, 2] += 1.0  # IoU 0.2, all of the footprint
    boxes[3, 6] += math.pi  # the same box
    index = torch.tensor([0, 0, 0, 0, 1])  # the last one is of a frame without cars
    gt = [car, torch.zeros(0, 7)]
    positive = model.positives(boxes, index, gt)
    assert positive.tolist() == [True, True, False, True, False]
    logits = torch.tensor([0.3, -1.0, 0.5, 2.0, -0.7], requires_grad=True)
    loss = model.loss(logits, boxes, index, gt)["loss_rescore"]
    p = logits.sigmoid()
    focal = torch.where(
        positive, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()
    ).sum()
    torch.testing.assert_close(loss, focal / 3 / 2)
    nothing = model.loss(logits[:0], boxes[:0], index[:0], gt)["loss_rescore"]
    assert nothing == 0
    nothing.backward()
