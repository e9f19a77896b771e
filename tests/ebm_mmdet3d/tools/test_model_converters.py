"""`tools/model_converters/`: synthetic checkpoints with the published names and shapes."""

from __future__ import annotations

import importlib.util
import math
import os
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmdet3d", reason="3D needs mmdet3d: pip install 'ebm-mmdet[3d]'")

from mmengine.runner import load_checkpoint

from ebm_mmdet.engine.checkpoint_conversion import ConversionError
from ebm_mmdet3d.models import EBM3DRefineHead, SASSDHead
from ebm_ops import rotated_grid_pool
from tests.ebm_mmdet3d.models.sassd_toys import sassd_cfg
from tests.ebm_mmdet3d.models.toys import head_cfg
from tests.tolerances import TOLERANCE

ROOT = Path(__file__).resolve().parents[3]


def load_tool():
    path = ROOT / "tools" / "model_converters" / "sassd_to_ebm_mmdet3d.py"
    spec = importlib.util.spec_from_file_location("sassd_to_ebm_mmdet3d", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


TOOL = load_tool()


def shapes_of_sassd() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released code's layers, in spconv 1's layout."""
    shapes: dict[str, tuple[int, ...]] = {}

    def normalised(conv, norm, kernel, channels):
        shapes[f"{conv}.weight"] = kernel
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{name}"] = (channels,)
        shapes[f"{norm}.num_batches_tracked"] = ()

    backbone = "neck.backbone."
    layers = [("conv0.0", 4, 16), ("conv0.3", 16, 16), ("down0.0", 16, 32)]
    layers += [("conv1.0", 32, 32), ("conv1.3", 32, 32), ("down1.0", 32, 64)]
    layers += [(f"conv2.{i}", 64, 64) for i in (0, 3, 6)] + [("down2.0", 64, 64)]
    layers += [(f"conv3.{i}", 64, 64) for i in (0, 3, 6)]
    for name, i, o in layers:
        block, index = name.split(".")
        normalised(backbone + name, f"{backbone}{block}.{int(index) + 1}", (3, 3, 3, i, o), o)
    normalised(backbone + "extra_conv.0", backbone + "extra_conv.1", (1, 1, 1, 64, 64), 64)
    shapes[backbone + "point_fc.weight"] = (64, 160)
    shapes[backbone + "point_cls.weight"] = (1, 64)
    shapes[backbone + "point_reg.weight"] = (3, 64)
    for i in range(8):
        kernel = (256, 320 if i == 0 else 256, *((1, 1) if i == 7 else (3, 3)))
        normalised(f"neck.fcn.conv{i}", f"neck.fcn.bn{i}", kernel, 256)
    for name, rows in (("conv_cls", 2), ("conv_box", 14), ("conv_dir_cls", 4)):
        shapes[f"rpn_head.{name}.weight"] = (rows, 256, 1, 1)
        shapes[f"rpn_head.{name}.bias"] = (rows,)
    normalised("extra_head.convs.0", "extra_head.convs.1", (28, 256, 3, 3), 28)
    shapes["extra_head.convs.3.weight"] = (28, 28, 1, 1)
    return shapes


def shapes_of_energy_head(channels: int = 256) -> dict[str, tuple[int, ...]]:
    widths = {
        "ebm_fc1": (28 * channels + 32, 1024),
        "ebm_fc2": (1024, 1024),
        "ebm_fc3": (1024, 1),
        **{f"{branch}_fc1": (1, 16) for branch in "zh"},
        **{f"{branch}_fc2": (16, 16) for branch in "zh"},
    }
    return {
        f"{name}.{tensor}": shape
        for name, (i, o) in widths.items()
        for tensor, shape in (("weight", (o, i)), ("bias", (o,)))
    }


def random_state(shapes, prefix: str = "") -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        prefix + name: torch.tensor(7) if shape == () else 0.1 * torch.randn(shape, generator=g)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def expected():
    """State dicts of the models of the two configs."""
    return {with_head: TOOL.our_state(with_head) for with_head in (False, True)}


# ------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize("with_head", [False, True])
def test_every_tensor_finds_its_place(expected, with_head):
    shapes = shapes_of_sassd() | (shapes_of_energy_head() if with_head else {})
    official = random_state(shapes)
    state, left_out = TOOL.convert(official, expected[with_head], with_head)
    assert left_out == []
    assert len(official) == len(state)  # one to one
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in expected[with_head].items()
    }
    # Nothing is lost and nothing comes twice: the same numbers, up to the sign of yaw.
    for values in (official, state):
        assert len(values) == len(shapes)
    total = sum(v.double().abs().sum() for v in official.values())
    assert sum(v.double().abs().sum() for v in state.values()) == pytest.approx(float(total))
    prefix = "detector." if with_head else ""
    first = official["neck.backbone.conv0.0.weight"]
    ours = state[prefix + "middle_encoder.stem.0.conv.weight"]
    assert torch.equal(ours[5, 0, 1, 2, 3], first[0, 1, 2, 3, 5])
    third = official["neck.backbone.conv3.6.weight"]
    ours = state[prefix + "middle_encoder.stages.2.3.0.weight"]
    assert torch.equal(ours[5, 0, 1, 2, 3], third[0, 1, 2, 3, 5])
    extra = official["neck.backbone.extra_conv.0.weight"]
    assert torch.equal(state[prefix + "middle_encoder.conv_out.0.weight"], extra[0, 0, 0].t())
    if with_head:
        assert torch.equal(state["energy_head.fc_h.2.bias"], official["h_fc2.bias"])
        parameters = [v for k, v in state.items() if k.startswith("energy_head.")]
        assert sum(v.numel() for v in parameters) == 8_425_057


def test_what_does_not_fit_is_named(expected):
    official = random_state(shapes_of_sassd())

    def message(change):
        state = dict(official)
        change(state)
        with pytest.raises(ConversionError) as error:
            TOOL.convert(state, expected[False], False)
        return str(error.value)

    assert "ours: bbox_head.conv_cls.bias" in message(lambda s: s.pop("rpn_head.conv_cls.bias"))

    def renamed(state):
        state["rpn_head.conv_klass.bias"] = state.pop("rpn_head.conv_cls.bias")

    assert "without a place: rpn_head.conv_klass.bias" in message(renamed)
    wrong = {"neck.backbone.conv1.0.weight": torch.zeros(32, 3, 3, 3, 32)}  # spconv 2's layout
    assert "conv1.0.weight (32, 3, 3, 3, 32)" in message(lambda s: s.update(wrong))
    wrong = {"rpn_head.conv_box.bias": torch.zeros(15)}
    assert "conv_box.bias (15,)" in message(lambda s: s.update(wrong))
    counts = [name for name in official if name.endswith("num_batches_tracked")]
    without = {k: v for k, v in official.items() if k not in counts}
    state, _ = TOOL.convert(without, expected[False], False)
    assert state["backbone.conv0.bn.num_batches_tracked"] == 0


# ----------------------------------------------------------------------------------------- values


def official_boxes(state, feature):
    """Boxes (x, y, z, w, l, h, rotation_y) of the released decoding, at one cell of the map."""
    deltas = F.conv2d(feature, state["conv_box.weight"], state["conv_box.bias"])
    bits = F.conv2d(feature, state["conv_dir_cls.weight"], state["conv_dir_cls.bias"])
    deltas = deltas.permute(0, 2, 3, 1).reshape(-1, 2, 7)
    backwards = bits.permute(0, 2, 3, 1).reshape(-1, 2, 2).argmax(2)
    rows, columns = feature.shape[2:]
    x = (0.2 + 0.4 * torch.arange(columns)).repeat(rows)[:, None]
    y = (-6.2 + 0.4 * torch.arange(rows)).repeat_interleave(columns)[:, None]
    rotation = torch.tensor([0.0, 1.57])
    width, length, height = 1.6, 3.9, 1.56
    diagonal = math.hypot(width, length)
    h = deltas[..., 5].exp() * height
    boxes = [
        deltas[..., 0] * diagonal + x,
        deltas[..., 1] * diagonal + y,
        deltas[..., 2] * height + (-1.78 + height / 2) - h / 2,
        deltas[..., 3].exp() * width,
        deltas[..., 4].exp() * length,
        h,
        deltas[..., 6] + rotation,
    ]
    boxes = torch.stack(boxes, dim=-1)
    opposite = (boxes[..., 6] > 0) != backwards.bool()
    boxes[..., 6] += math.pi * opposite
    return boxes.reshape(-1, 7)


def test_converted_proposals_are_the_official_boxes():
    """yaw = -rotation_y - pi/2, l and w in their places, heading by the direction bit."""
    cfg = sassd_cfg()
    cfg.bbox_head.pop("type")
    head = SASSDHead(**cfg.bbox_head, train_cfg=cfg.train_cfg, test_cfg=cfg.test_cfg)
    shapes = {"conv_cls": 2, "conv_box": 14, "conv_dir_cls": 4}
    official = {}
    for name, rows in shapes.items():
        official |= random_state({f"{name}.weight": (rows, 24, 1, 1), f"{name}.bias": (rows,)})
    ours = {"conv_cls": "conv_cls", "conv_box": "conv_reg", "conv_dir_cls": "conv_dir_cls"}
    for name, value in official.items():
        module, tensor = name.split(".")
        transform = TOOL.transform_of(f"rpn_head.{module}", value)
        head.get_submodule(ours[module]).get_parameter(tensor).data = transform(value)
    feature = torch.randn(1, 24, 32, 32, generator=torch.Generator().manual_seed(3))
    occupied = torch.ones(1, 2 * 32 * 32, dtype=torch.bool)
    with torch.no_grad():
        found, _ = head.guided_boxes(head((feature,)), occupied, 0.0)
        theirs = official_boxes(official, feature)
    assert len(found) == len(theirs)
    size = [0, 1, 2, 4, 3, 5]
    torch.testing.assert_close(found[:, :6], theirs[:, size], **TOLERANCE[torch.float32])
    turn = found[:, 6] + theirs[:, 6] + math.pi / 2
    turn = (turn + math.pi) % (2 * math.pi) - math.pi
    # A box at rotation_y = pi, where the released code keeps the heading and we turn it.
    assert (turn.abs() < 1e-4).float().mean() > 0.99


def test_converted_energy_is_the_official_one():
    """f of a box, with the released sample grid, order of features and MLPs."""
    channels = 4
    head = EBM3DRefineHead(
        **{k: v for k, v in head_cfg(num_classes=1, in_channels=channels).items() if k != "type"}
        | dict(fc_channels=[1024, 1024])
    )
    official = random_state(shapes_of_energy_head(channels))
    for name, value in official.items():
        module, tensor = name.split(".")
        place = TOOL.ENERGY_HEAD[module].removeprefix("energy_head.")
        head.get_submodule(place).get_parameter(tensor).data = value
    bev = torch.randn(1, channels, 40, 48, generator=torch.Generator().manual_seed(1))
    x, y, z, w, l, h, theta = box = (8.0, 0.5, -1.6, 1.7, 4.1, 1.5, 0.7)  # noqa: E741
    assert len(box) == 7

    a = torch.linspace(-0.5, 0.5, 4).view(4, 1) * w
    b = torch.linspace(-0.5, 0.5, 7).view(1, 7) * l
    u = (a * math.cos(theta) + b * math.sin(theta) + x) / 0.4
    v = (b * math.cos(theta) - a * math.sin(theta) + y + 8.0) / 0.4
    grid = torch.stack((2 * u / 47 - 1, 2 * v / 39 - 1), dim=-1)[None]
    pooled = F.grid_sample(bev, grid, align_corners=True).flatten(1)

    def linear(name, value):
        return F.linear(value, official[f"{name}.weight"], official[f"{name}.bias"])

    branches = [
        F.relu(linear(f"{name}_fc2", F.relu(linear(f"{name}_fc1", torch.tensor([[value]])))))
        for name, value in (("z", z), ("h", h))
    ]
    hidden = F.relu(linear("ebm_fc1", torch.cat((pooled, *branches), dim=1)))
    f = linear("ebm_fc3", F.relu(linear("ebm_fc2", hidden)))

    ours = torch.tensor([[[x, y, z, l, w, h, -theta - math.pi / 2]]])
    frame = torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        assert (
            rotated_grid_pool(
                bev, ours[0, :, [0, 1, 3, 4, 6]], frame, origin=(0.0, -8.0), cell_size=0.4
            )
            .flatten(1)
            .sub(pooled)
            .abs()
            .max()
            < 1e-4
        )
        found = head.log_density(head.prepare([bev]), ours, frame, frame)
    torch.testing.assert_close(found, f, rtol=1e-3, atol=1e-3)


# ------------------------------------------------------------------------------------------ files


def one_cycle_state() -> dict:
    """Optimiser state as the released training leaves it: numpy computed its rates and momenta."""
    exponent = {"step": 9, "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
    group = {"lr": np.float64(3e-3), "betas": (np.float64(0.95), 0.99), "wd": np.float32(0.01)}
    return {"state": {0: exponent}, "param_groups": [{**group, "params": [0]}]}


@pytest.mark.parametrize("new_format", [False, True], ids=["torch 1.1", "torch 1.6"])
@pytest.mark.parametrize("numpy_package", ["numpy.core", "numpy._core"])
def test_a_training_checkpoint_with_numpy_scalars(tmp_path, new_format, numpy_package):
    """numpy 1 pickles its scalars as numpy.core..., numpy 2 as numpy._core...."""
    source = tmp_path / "checkpoint.pth"
    official = random_state(shapes_of_sassd())
    content = dict(epoch=80, it=148480, model_state=official, optimizer_state=one_cycle_state())
    torch.save(content, source, _use_new_zipfile_serialization=new_format)
    ours = np.float64.__reduce__(np.float64(0))[0].__module__.encode()
    theirs = f"{numpy_package}.multiarray".encode()
    if new_format:
        with zipfile.ZipFile(source) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(source, "w") as archive:
            for name, value in members.items():
                if name.endswith("data.pkl"):
                    assert ours in value
                    value = value.replace(ours, theirs)
                archive.writestr(name, value)
    else:
        value = source.read_bytes()
        assert ours in value
        source.write_bytes(value.replace(ours, theirs))
    read = TOOL.read(source)
    assert read.keys() == official.keys()
    assert all(torch.equal(read[name], value) for name, value in official.items())


def test_other_objects_are_still_refused(tmp_path):
    """The allow-list is of types, not of everything in numpy."""
    source = tmp_path / "checkpoint.pth"
    guests = {
        "randomstate": np.random.RandomState(0),
        "Fraction": np.array([Fraction(1, 2)], dtype=object),
        "system": os.system,
    }
    for name, guest in guests.items():
        torch.save(dict(model_state={"a": torch.zeros(1)}, optimizer_state=guest), source)
        with pytest.raises(ConversionError, match=rf"was not read: values of .*{name}"):
            TOOL.read(source)


@pytest.mark.parametrize("both", [False, True])
def test_the_auxiliary_network_of_newer_files(expected, both):
    """They have it as neck.point_*; a file with two has one left out."""
    official = random_state(shapes_of_sassd())
    old = [name for name in official if name.startswith("neck.backbone.point_")]
    assert len(old) == 3
    for name in old:
        new = name.replace("neck.backbone.", "neck.")
        official[new] = official[name] + 1
        if not both:
            del official[name]
    state, left_out = TOOL.convert(official, expected[False], False)
    source = "neck.backbone.point_fc.weight" if both else "neck.point_fc.weight"
    assert torch.equal(state["auxiliary_head.point_fc.weight"], official[source])
    newer = ["neck.point_fc.weight", "neck.point_cls.weight", "neck.point_reg.weight"]
    assert left_out == (newer if both else [])


def test_tensors_without_a_place_are_left_out_and_named(tmp_path, capsys):
    source, target = tmp_path / "epoch_50.pth", tmp_path / "ours.pth"
    official = random_state(shapes_of_sassd(), prefix="module.")
    extra = {"module.neck.extra.weight": torch.ones(3), "module.other": torch.ones(2)}
    torch.save(dict(model_state=official | extra, optimizer_state=one_cycle_state()), source)
    TOOL.main([str(source), str(target)])
    shown = capsys.readouterr().out
    assert f"{len(official)} tensors converted" in shown
    (line,) = [line for line in shown.splitlines() if "left out" in line]
    assert "module.neck.extra.weight, module.other" in line
    state = torch.load(target, weights_only=True)["state_dict"]
    assert len(state) == len(official)


def test_file_to_file(tmp_path, capsys, expected):
    """As the released training wrote it: with `module.`, in `model_state`, beside other values."""
    source, target = tmp_path / "epoch_50.pth", tmp_path / "new" / "ours.pth"
    official = random_state(shapes_of_sassd(), prefix="module.")
    torch.save(dict(epoch=50, it=92800, model_state=official, version="none"), source)
    TOOL.main([str(source), str(target)])
    shown = capsys.readouterr().out
    assert f"{len(official)} tensors converted" in shown
    assert "left out" not in shown
    assert "Verified against the released code" in shown
    assert [p.name for p in target.parent.iterdir()] == ["ours.pth"]

    from mmdet3d.registry import MODELS
    from mmengine.config import Config

    cfg = Config.fromfile(ROOT / "configs" / "ebm3d" / "sassd_paper_car_kitti.py")
    model = MODELS.build(cfg.model)
    load_checkpoint(model, str(target), strict=True)
    sparse = model.middle_encoder.stages[0][0][0].weight
    theirs = official["module.neck.backbone.down0.0.weight"]
    assert torch.equal(sparse, theirs.permute(4, 0, 1, 2, 3))

    written = target.read_bytes()
    with pytest.raises(SystemExit, match="exists and is not overwritten"):
        TOOL.main([str(source), str(target)])
    assert target.read_bytes() == written


def test_files_that_are_refused(tmp_path):
    target = tmp_path / "ours.pth"
    cases = {
        "there is no checkpoint": None,
        "is not a whole checkpoint": b"no checkpoint",
        "holds no state dict": [1, 2],
        "not tensors: epoch": {"epoch": 3, "a": torch.zeros(1)},
    }
    for i, (message, content) in enumerate(cases.items()):
        source = tmp_path / f"{i}.pth"
        if isinstance(content, bytes):
            source.write_bytes(content)
        elif content is not None:
            torch.save(content, source)
        with pytest.raises(SystemExit, match=message):
            TOOL.main([str(source), str(target)])
    torch.save({"model_state": os.system}, tmp_path / "code.pth")
    with pytest.raises(SystemExit, match="was not read"):
        TOOL.main([str(tmp_path / "code.pth"), str(target)])
    assert not target.exists()
