"""`rock_to_ebm_mmdet.py`: made-up tensors of the reference's names, against its formulas."""

from __future__ import annotations

import collections
import copy
import importlib.util
import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope

import ebm_mmdet  # noqa: F401  (registers the models)
from ebm_mmdet.engine.checkpoint_conversion import ConversionError

ROOT = Path(__file__).resolve().parents[2]
H, W = 480, 640
SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
SIZES = ((30, 40), (15, 20), (8, 10), (4, 5), (2, 3), (1, 1))
STEPS = ((16, 16), (32, 32), (60, 64), (120, 128), (240, 213), (480, 640))
CLASSES, SCENES = 19, 27


def load_tool():
    path = ROOT / "tools" / "model_converters" / "rock_to_ebm_mmdet.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


TOOL = load_tool()


def reference_shapes(block: bool, stem: int = 64, narrow: int = 1) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the reference's layers; ``narrow`` divides all widths but outputs."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name, out, into, height, width=None, bias=True):
        shapes[f"{name}.weight"] = (out, into, height, width or height)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name, channels):
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{tensor}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    body = "feature_extractor"
    conv(f"{body}.conv1", stem, 3, 7, bias=False)
    norm(f"{body}.bn1", stem)
    into = stem
    for stage, blocks in enumerate((3, 4, 6, 3)):
        mid = stem * 2**stage
        for i in range(blocks):
            name = f"{body}.layer{stage + 1}.{i}"
            for j, (o, c, k) in enumerate(((mid, into, 1), (mid, mid, 3), (4 * mid, mid, 1))):
                conv(f"{name}.conv{j + 1}", o, c, k, bias=False)
                norm(f"{name}.bn{j + 1}", o)
            if i == 0:
                conv(f"{name}.downsample.0", 4 * mid, into, 1, bias=False)
                norm(f"{name}.downsample.1", 4 * mid)
            into = 4 * mid
    outs = [32 * stem, *(width // narrow for width in (1024, 512, 256, 256, 256))]
    mids = [width // narrow for width in (1024, 256, 128, 128, 128)]
    kernels = [(3, 3)] * 4 + [(2, 3)]
    for k, (mid, kernel) in enumerate(zip(mids, kernels)):
        name = f"detection.additional_layers.{k}"
        conv(f"{name}.0", mid, outs[k], 1)
        norm(f"{name}.1", mid)
        conv(f"{name}.3", outs[k + 1], mid, *kernel)
        norm(f"{name}.4", outs[k + 1])
    for k, ratios in enumerate(RATIOS):
        priors = 2 + 2 * len(ratios)
        conv(f"detection.loc.{k}", 4 * priors, outs[k], 3)
        conv(f"detection.conf.{k}", (CLASSES + 1) * priors, outs[k], 3)
    if block:
        mid, half = 512 // narrow, 256 // narrow
        conv("auxiliary.conv1", mid, outs[0], 1)
        conv("auxiliary.conv2", mid, mid, 3)
        for i, channels in enumerate((mid, mid, outs[0])):
            norm(f"auxiliary.bn{i + 1}", channels)
        for task, features in (
            ("scene", SCENES),
            ("depth", 128 // narrow),
            ("normals", 384 // narrow),
        ):
            name = f"auxiliary.{task}_extractor"
            for i, (o, c, k) in enumerate(((half, mid, 1), (half, half, 3), (mid, half, 1))):
                conv(f"{name}.conv{i + 1}", o, c, k)
                norm(f"{name}.bn{i + 1}", o)
            conv(f"{name}.{task}_in", features, mid, 1)
            conv(f"{name}.{task}_out", outs[0], features, 1)
            norm(f"{name}.bn_out", outs[0])
    return shapes


def random_state(shapes, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random values that keep activations of order 1, with running statistics of order 1."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=g)
        if name.endswith("num_batches_tracked"):
            values = torch.tensor(100)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            values = 1 + 0.3 * values.tanh()
        elif len(shape) == 4:
            values = values * math.sqrt(2 / (shape[1] * shape[2] * shape[3]))
        else:
            values = 0.2 * values
        state[name] = values
    return state


# The forward pass of the reference, from its formulas -------------------------------------------


def norm(state, name, x):
    if "calibrate" in state:  # the statistics of a trained network are those of its activations
        mean = x.mean((0, 2, 3))
        state[f"{name}.running_mean"] = mean
        state[f"{name}.running_var"] = x.var((0, 2, 3), unbiased=False) + 0.1
    mean, var, weight, bias = (
        state[f"{name}.{t}"] for t in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, var, weight, bias)


def conv(state, name, x, **options):
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)


def backbone(state, x):
    body = "feature_extractor"
    x = norm(state, f"{body}.bn1", conv(state, f"{body}.conv1", x, stride=2, padding=3)).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for i in range(blocks):
            name = f"{body}.layer{stage + 1}.{i}"
            stride = 2 if i == 0 and stage in (1, 2) else 1
            dilation = 2 if stage == 3 and i > 0 else 1  # the first block of layer 4 has none
            options = (
                {},
                dict(stride=stride, padding=dilation, dilation=dilation),
                {},
            )
            y = x
            for j, option in enumerate(options):
                y = norm(
                    state, f"{name}.bn{j + 1}", conv(state, f"{name}.conv{j + 1}", y, **option)
                )
                y = y.relu() if j < 2 else y
            if f"{name}.downsample.0.weight" in state:
                x = norm(
                    state,
                    f"{name}.downsample.1",
                    conv(state, f"{name}.downsample.0", x, stride=stride),
                )
            x = (x + y).relu()
    return x


def auxiliary(state, x, tasks):
    e = x
    for i in (1, 2):
        e = norm(
            state, f"auxiliary.bn{i}", conv(state, f"auxiliary.conv{i}", e, padding=i - 1)
        ).relu()
    total, predictions = x, {}
    for task in tasks:
        name, f = f"auxiliary.{task}_extractor", e
        for i in (1, 2, 3):
            f = norm(
                state, f"{name}.bn{i}", conv(state, f"{name}.conv{i}", f, padding=int(i == 2))
            ).relu()
        f = conv(state, f"{name}.{task}_in", f)
        if task == "scene":
            predictions[task] = f.mean((2, 3))
        elif task == "depth":
            predictions[task] = f.mean(1, keepdim=True)
        else:
            predictions[task] = torch.stack([third.mean(1) for third in f.chunk(3, dim=1)], 1)
        total = total + norm(state, f"{name}.bn_out", conv(state, f"{name}.{task}_out", f)).relu()
    return norm(state, "auxiliary.bn3", total).relu(), predictions


def detection(state, x):
    """Boxes (B, 4, priors) and logits (B, 20, priors), types of priors outermost in a level."""
    boxes, logits = [], []
    for k in range(6):
        if k:
            name = f"detection.additional_layers.{k - 1}"
            x = norm(state, f"{name}.1", conv(state, f"{name}.0", x)).relu()
            options = dict(stride=2, padding=1) if k <= 3 else {}
            x = norm(state, f"{name}.4", conv(state, f"{name}.3", x, **options)).relu()
        assert x.shape[-2:] == SIZES[k]
        boxes.append(conv(state, f"detection.loc.{k}", x, padding=1).reshape(len(x), 4, -1))
        logits.append(conv(state, f"detection.conf.{k}", x, padding=1).reshape(len(x), 20, -1))
    return torch.cat(boxes, -1), torch.cat(logits, -1)


def reference_priors():
    rows = []
    for k, ratios in enumerate(RATIOS):
        s, following = SCALES[k], SCALES[k + 1]
        sides = [(s, s), (math.sqrt(s * following),) * 2]
        for a in ratios:
            w, h = s * math.sqrt(a), s / math.sqrt(a)
            sides += [(w, h), (h, w)]
        for (w, h), i, j in itertools.product(sides, range(SIZES[k][0]), range(SIZES[k][1])):
            rows.append(((j + 0.5) * STEPS[k][1] / W, (i + 0.5) * STEPS[k][0] / H, w, h))
    return torch.tensor(rows).clamp(0, 1)


def reference_forward(state, images, tasks):
    """Corner boxes in pixels (B, priors, 4), scores (B, priors, 20), predictions of the tasks."""
    x, predictions = backbone(state, images), {}
    if tasks:
        x, predictions = auxiliary(state, x, tasks)
    boxes, logits = detection(state, x)
    boxes, priors = boxes.permute(0, 2, 1), reference_priors()
    centre = boxes[..., :2] * 0.1 * priors[:, 2:] + priors[:, :2]
    size = (boxes[..., 2:] * 0.2).exp() * priors[:, 2:]
    corners = torch.cat([centre - size / 2, centre + size / 2], -1)
    return corners * torch.tensor([W, H, W, H]), logits.permute(0, 2, 1).softmax(-1), predictions


def reference_detections(boxes, scores, nms=0.3):
    """(box, label, score) of one image: above 0.05, 200 of each class, greedy NMS, best 100."""
    found = []
    for label in range(1, 20):
        order = scores[:, label].argsort(descending=True)[:200]
        order = order[scores[order, label] > 0.05]
        while len(order):
            best = order[0]
            found.append((boxes[best], label - 1, float(scores[best, label])))
            order = order[ious(boxes[order], boxes[best]) < nms]
    return sorted(found, key=lambda one: -one[2])[:100]


def ious(a, b):
    sides = torch.minimum(a[:, 2:], b[2:]) - torch.maximum(a[:, :2], b[:2])
    overlap = sides.clamp(min=0).prod(1)
    return overlap / ((a[:, 2:] - a[:, :2]).prod(1) + (b[2:] - b[:2]).prod() - overlap)


# ------------------------------------------------------------------------------------------------

NARROW = 16


def narrow_model(tasks):
    """Our configs' model with all widths divided by 16, as a module in eval mode."""
    init_default_scope("mmdet")
    name = TOOL.ROCK if tasks else TOOL.SSD
    cfg = Config.fromfile(ROOT / "configs" / "rock" / f"{name}.py").model
    detector = cfg.detector if tasks else cfg
    outs = [64 // NARROW * 32, *(w // NARROW for w in (1024, 512, 256, 256, 256))]
    mids = [w // NARROW for w in (1024, 256, 128, 128, 128)]
    detector.backbone.update(base_channels=4, stem_channels=4, init_cfg=None)
    detector.neck.update(in_channels=outs[0], mid_channels=mids, out_channels=outs[1:])
    detector.bbox_head.in_channels = outs
    if tasks:
        cfg.block.update(in_channels=outs[0], mid_channels=512 // NARROW)
        cfg.block.tasks.depth.feature_channels = 128 // NARROW
        cfg.block.tasks.normals.feature_channels = 384 // NARROW
        cfg.block.tasks = {task: cfg.block.tasks[task] for task in tasks}
    return MODELS.build(cfg).eval()


@pytest.mark.parametrize("tasks", [(), ("scene", "depth", "normals"), ("depth",)], ids=str)
def test_a_converted_model_gives_what_the_reference_gives(tasks):
    official = random_state(reference_shapes(bool(tasks), 4, NARROW))
    for task in set(TOOL.TASKS) - set(tasks):  # the reference builds these, and runs them never
        for name in official:
            if name.startswith(f"auxiliary.{task}") and name.endswith("num_batches_tracked"):
                official[name] = torch.tensor(0)
    picture = torch.randint(0, 256, (3, H, W), generator=torch.Generator().manual_seed(1))
    sample = DetDataSample(
        metainfo=dict(ori_shape=(H, W), img_shape=(H, W), scale_factor=(1.0, 1.0))
    )
    data = dict(inputs=[picture.flip(0).to(torch.uint8)], data_samples=[sample])  # ours reads BGR
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    image = ((picture / 255 - mean) / std)[None]
    official["calibrate"] = True
    with torch.no_grad():
        reference_forward(official, image, tasks)
    del official["calibrate"]

    assert TOOL.trained_tasks(official) == tasks
    model = narrow_model(tasks)
    state, left_out = TOOL.convert(official, model.state_dict(), tasks)
    assert all(name.startswith("auxiliary.") for name in left_out)
    assert bool(left_out) == (tasks == ("depth",))
    model.load_state_dict(state)

    with torch.no_grad():
        inputs = model.data_preprocessor(copy.deepcopy(data))["inputs"]
        torch.testing.assert_close(inputs, image, rtol=1e-5, atol=1e-5)
        # The random layers amplify rounding errors, even those of the input.
        doubles = {k: v.double() for k, v in official.items()}
        boxes, scores, predictions = reference_forward(doubles, inputs.double(), tasks)
        boxes, scores = boxes.float(), scores.float()
        predictions = {task: raw.float() for task, raw in predictions.items()}
        model.double()
        outputs = model(inputs.double(), mode="tensor")
        (found,) = model.predict(inputs.double(), [sample])
    head = getattr(model, "detector", model).bbox_head
    logits, deltas = head.flatten_outputs(*(outputs[0] if tasks else outputs))
    priors = head.priors([torch.zeros(1, 1, *size) for size in SIZES], [dict(img_shape=(H, W))])
    ours = head.bbox_coder.decode(priors, deltas[0])
    assert len(ours) == 7228

    # Every prior: theirs are ordered by type, row, column, ours by row, column, type.
    start, order = 0, []
    for (rows, columns), ratios in zip(SIZES, RATIOS):
        types = 2 + 2 * len(ratios)
        index = torch.arange(types * rows * columns).view(types, rows, columns) + start
        order.append(index.permute(1, 2, 0).flatten())
        start += index.numel()
    order = torch.cat(order)
    torch.testing.assert_close(ours, boxes[0, order], rtol=1e-5, atol=5e-3)  # of 640 pixels
    theirs = scores[0, order].roll(-1, 1)  # background last
    torch.testing.assert_close(logits[0].softmax(-1), theirs, rtol=1e-5, atol=1e-6)
    assert theirs.std(0).min() > 1e-3  # a wrong order would be seen

    for task, raw in predictions.items():
        if task == "scene":
            torch.testing.assert_close(
                found.pred_scene.scores, raw[0].softmax(0), rtol=1e-5, atol=1e-6
            )
        elif task == "depth":
            torch.testing.assert_close(found.pred_depth.depth, raw[0].exp(), rtol=1e-5, atol=1e-6)
        else:
            unit = raw[0] / raw[0].norm(dim=0)
            torch.testing.assert_close(found.pred_normals.normals, unit, rtol=1e-4, atol=1e-5)
    assert tuple(n for n in TOOL.TASKS if f"pred_{n}" in found) == tasks

    expected = reference_detections(boxes[0], scores[0])
    assert len(expected) > 10
    assert len(found.pred_instances) == len(expected)
    for i, (box, label, score) in enumerate(expected):
        mine = found.pred_instances[i]
        assert float(mine.scores) == pytest.approx(score, abs=1e-5)
        near = (found.pred_instances.scores - score).abs() < 1e-5  # equal up to rounding
        same = near & (found.pred_instances.labels == label)
        assert (found.pred_instances.bboxes[same] - box).abs().amax(1).min() < 0.01


@pytest.fixture(scope="module")
def expected():
    """State dicts of the models of the configs, full size, without memory for their values."""
    with torch.device("meta"):
        return {tasks: TOOL.our_state(tasks) for tasks in ((), TOOL.TASKS)}


@pytest.mark.parametrize("tasks", [(), TOOL.TASKS], ids=["ssd", "rock"])
def test_every_tensor_of_full_size_finds_its_place(expected, tasks):
    shapes = reference_shapes(bool(tasks))
    official = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    state, left_out = TOOL.convert(official, expected[tasks], tasks)
    assert left_out == []
    assert len(official) == len(state)  # one to one
    weights = [v for k, v in shapes.items() if not k.endswith(("mean", "var", "tracked"))]
    total = sum(math.prod(shape) for shape in weights)
    assert total / 1e6 == pytest.approx(49.3 if tasks else 41.9, abs=0.1)


def test_rows_of_outputs():
    rows = torch.arange(8.0)  # (coordinate, prior) of two priors
    assert TOOL.box_rows(rows).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    rows = torch.arange(6.0)  # background, a, b of two priors
    assert TOOL.class_rows(rows, 2).tolist() == [2, 4, 0, 3, 5, 1]
    assert TOOL.box_rows(torch.zeros(7)) is None
    assert TOOL.class_rows(torch.zeros(7), 2) is None


def test_what_does_not_fit_is_named(expected):
    official = {k: torch.empty(v, device="meta") for k, v in reference_shapes(False).items()}

    def message(change):
        state = dict(official)
        change(state)
        with pytest.raises(ConversionError) as error:
            TOOL.convert(state, expected[()], ())
        return str(error.value)

    assert "ours: bbox_head.cls_convs.3.0.bias" in message(lambda s: s.pop("detection.conf.3.bias"))
    extra = {"detection.extra.weight": torch.zeros(1)}
    assert "without a place: detection.extra.weight" in message(lambda s: s.update(extra))
    wrong = {"detection.loc.2.weight": torch.zeros(23, 512, 3, 3)}
    assert "detection.loc.2.weight (23, 512, 3, 3)" in message(lambda s: s.update(wrong))
    # A file with the block does not become the plain detector by silence.
    block = {
        k: torch.empty(v) for k, v in reference_shapes(True).items() if k == "auxiliary.conv1.bias"
    }
    assert "without a place: auxiliary.conv1.bias" in message(lambda s: s.update(block))


@pytest.mark.parametrize("new_format", [False, True], ids=["torch 1.5", "torch 1.6"])
def test_a_file_of_the_reference_becomes_ours(tmp_path, new_format, monkeypatch, capsys):
    official = random_state(reference_shapes(True, 4, NARROW))
    source, target = tmp_path / "rock trained.pt", tmp_path / "new" / "rock.pth"
    scheduler = dict(milestones=collections.Counter([25000]), gamma=0.1, base_lrs=[5e-5])
    content = dict(epoch=304, iteration=30000, scheduler=scheduler)
    content |= dict(model=collections.OrderedDict(official), optimizer=dict(state={}))
    torch.save(content, source, _use_new_zipfile_serialization=new_format)
    model = narrow_model(TOOL.TASKS)
    monkeypatch.setattr(TOOL, "our_state", lambda tasks: model.state_dict())
    TOOL.main([str(source), str(target)])
    printed = capsys.readouterr().out
    assert "ROCK with scene, depth, normals" in printed
    assert f"configs/rock/{TOOL.ROCK}.py" in printed
    loaded = torch.load(target, weights_only=True)
    assert len(loaded["meta"]["dataset_meta"]["classes"]) == 19
    assert loaded["meta"]["dataset_meta"]["scene_types"] == tuple(sorted(TOOL.SCENE_TYPES))
    assert len(TOOL.SCENE_TYPES) == SCENES
    model.load_state_dict(loaded["state_dict"], strict=True)
    before = target.read_bytes()
    with pytest.raises(SystemExit, match=r"rock\.pth exists and is not overwritten"):
        TOOL.main([str(source), str(target)])
    assert target.read_bytes() == before
    with pytest.raises(SystemExit, match="there is no checkpoint"):
        TOOL.main([str(tmp_path / "no.pt"), str(tmp_path / "other.pth")])


@pytest.mark.parametrize(
    ("tasks", "config"),
    [
        ((), f"{TOOL.SSD}.py"),
        (TOOL.TASKS, f"{TOOL.ROCK}.py"),
        (("depth",), f"{TOOL.ROCK}_depth.py"),
        (("scene", "normals"), f"{TOOL.ROCK}.py --cfg-options model.block.tasks.depth=None"),
    ],
)
def test_the_config_that_the_tool_names(tasks, config):
    assert TOOL.config_for(tasks) == f"configs/rock/{config}"
    assert (ROOT / "configs" / "rock" / config.split()[0]).is_file()
