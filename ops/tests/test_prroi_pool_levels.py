"""Precise RoI pooling from the maps of several levels: the calls level by level, in one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ebm_ops import prroi_pool, prroi_pool_levels
from ebm_ops.prroi_pool import levels as operators
from quadrature import random_rois
from surroundings import HAS_CPP, run_python
from test_prroi_pool import ODD
from tolerances import TOLERANCE

SIZES, SCALES = ((9, 11), (5, 6), (3, 4), (2, 2)), (0.3, 0.15, 0.08, 0.04)
PLACES = [size for pair in SIZES for size in pair]
OPS = torch.ops.ebm_ops


def problem(
    seed: int, channels: int = 3, count: int = 9, dtype: torch.dtype = torch.float64, maps: int = 4
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Maps of two images, boxes that partly leave them, and levels; the third has no box."""
    g = torch.Generator().manual_seed(seed)
    features = [
        torch.randn(2, channels, *size, generator=g, dtype=torch.float64).to(dtype)
        for size in SIZES[:maps]
    ]
    rois = random_rois(count, 2, (SIZES[0][1] / 0.3, SIZES[0][0] / 0.3), seed).to(dtype)
    used = torch.tensor([level for level in (0, 3, 1) if level < maps])
    return features, rois, used[torch.arange(count) % len(used)]


def level_by_level(features, rois, levels, size, backend="auto") -> Tensor:
    pooled = features[0].new_zeros(len(rois), features[0].shape[1], *size)
    for level, (one, scale) in enumerate(zip(features, SCALES)):
        rows = (levels == level).nonzero().squeeze(1)
        pooled = pooled.index_copy(0, rows, prroi_pool(one, rois[rows], size, scale, backend))
    return pooled


def derivatives(pool, features, rois, *rest, **options) -> list[Tensor]:
    """Values, and the gradients to the boxes and to each map."""
    inputs = [t.detach().requires_grad_() for t in (rois, *features)]
    pooled = pool(inputs[1:], inputs[0], *rest, **options)
    grad = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1)).to(pooled)
    return [pooled, *torch.autograd.grad(pooled, inputs, grad)]


def operator_calls(dtype: torch.dtype) -> list[tuple]:
    features, rois, levels = problem(0, dtype=dtype)
    grad = torch.randn(len(rois), 3, 3, 2, dtype=dtype)
    f, r, g = ([t.clone().requires_grad_() for t in x] for x in (features, [rois], [grad]))
    # Not as a traced function of all inputs: second derivatives run on the reference.
    return [
        (OPS.prroi_pool_levels.default, (f, r[0], levels, 3, 2, SCALES)),
        (OPS.prroi_pool_levels.default, (features, r[0], levels, 3, 2, SCALES)),
        (OPS.prroi_pool_levels_grad_rois.default, (grad, features, rois, levels, SCALES)),
        (
            OPS.prroi_pool_levels_grad_features.default,
            (g[0], r[0], levels, 2, PLACES, SCALES),
        ),
    ]


@pytest.mark.parametrize("channels", [3, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_the_calls_level_by_level(backend, dtype, channels):
    """Bit for bit, odd boxes and a level without boxes included."""
    features, rois, levels = problem(0, channels, 30, dtype)
    for row, box in enumerate(ODD.values()):
        rois[row, 1:] = torch.tensor(box, dtype=torch.float64).to(dtype)
    expected = derivatives(level_by_level, features, rois, levels, (3, 2), backend=backend)
    pool = lambda *args: prroi_pool_levels(*args, SCALES, backend)  # noqa: E731
    found = derivatives(pool, features, rois, levels, (3, 2))
    assert found[0].dtype == dtype
    assert found[0].is_contiguous()
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    assert (found[1] != 0).any(1).sum() > 8
    assert [bool((x != 0).any()) for x in found[2:]] == [True, True, False, True]


def test_other_implementations_on_a_cpu_give_the_same_bits():
    """What serves where the extension is missing, or older than this operator."""
    for dtype in (torch.float32, torch.float64):
        for operator, arguments in operator_calls(dtype):
            name = operator._schema.name.partition("::")[2]
            arguments = [_detached(x) for x in arguments]
            found = operators._kernels_by_level()[name](*arguments)
            for a, b in zip(_listed(found), _listed(operator(*arguments)), strict=True):
                assert torch.equal(a, b)


def test_autocast_changes_no_digit(backend):
    """Of values, first and second derivatives, and of what serves without the extension."""

    def results() -> list[Tensor]:
        features, rois, levels = problem(0, 19, 12, torch.float32)
        inputs = [x.requires_grad_() for x in (rois, *features)]
        pooled = prroi_pool_levels(features, rois, levels, (3, 2), SCALES, backend)
        first = torch.autograd.grad(pooled.square().sum(), inputs, create_graph=True)
        return [pooled, *first, *torch.autograd.grad(first[0].square().sum(), inputs)]

    def kernels() -> list[Tensor]:
        kernels = operators._kernels_by_level()
        calls = operator_calls(torch.float32)
        names = [operator._schema.name.partition("::")[2] for operator, _ in calls]
        arguments = [[_detached(x) for x in given] for _, given in calls]
        return [x for name, given in zip(names, arguments) for x in _listed(kernels[name](*given))]

    for compute in (results, kernels):
        torch.manual_seed(0)
        expected = compute()
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            found = compute()
        for a, b in zip(found, expected, strict=True):
            scale = float(b.detach().abs().max().clamp(min=1e-3))
            torch.testing.assert_close(a / scale, b / scale, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_derivatives(backend, check):
    features, rois, levels = problem(2, channels=2, count=3, maps=2)
    images, boxes = rois[:, :1], rois[:, 1:]
    inputs = [x.detach().requires_grad_() for x in (boxes, *features)]

    def pool(boxes, *features):
        rois = torch.cat([images, boxes], 1)
        return prroi_pool_levels(features, rois, levels, (2, 2), SCALES[:2], backend)

    assert check(pool, inputs, fast_mode=check is torch.autograd.gradgradcheck)


def test_opcheck():
    for operator, arguments in operator_calls(torch.float64):
        torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("channels_last", [True, False])
def test_strides_are_those_that_compilers_are_told(channels_last, monkeypatch):
    """Of every implementation: torch.compile relies on them."""
    kernels = pytest.importorskip("ebm_ops.prroi_pool.triton")
    for name in ("_forward", "_grad_rois", "_grad_features"):
        monkeypatch.setattr(kernels, name, _NoLaunch())
    for operator, arguments in operator_calls(torch.float32):
        arguments = [_detached(x, channels_last) for x in arguments]
        with FakeTensorMode() as mode:
            told = operator(*(_converted(x, mode.from_tensor) for x in arguments))
        name = operator._schema.name.partition("::")[2]
        for implementations in (operators._kernels_by_level(), operators._triton_kernels()):
            found = implementations[name](*arguments)
            for a, b in zip(_listed(found), _listed(told), strict=True):
                assert a.shape == b.shape
                assert a.stride() == b.stride()


def test_compiles_as_one_graph():
    features, rois, levels = problem(2, dtype=torch.float32)

    def slopes(rois, levels, *features):
        pooled = prroi_pool_levels(features, rois, levels, 3, SCALES)
        return (pooled * 2).square().sum((1, 2, 3))

    compiled = torch.compile(slopes, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (9, 5):
        found = []
        for function in (slopes, compiled):
            r, *f = (t.clone().requires_grad_() for t in (rois[:count], *features))
            values = function(r, levels[:count], *f)
            found.append([values, *torch.autograd.grad(values.sum(), (r, *f))])
        for a, b in zip(*found):
            torch.testing.assert_close(a, b, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("wanted", ["rois", "features"])
def test_only_the_gradient_asked_for_is_computed(monkeypatch, wanted):
    features, rois, levels = problem(0)
    (rois if wanted == "rois" else features[1]).requires_grad_()
    called = []
    for ending in ("rois", "features"):
        name = f"prroi_pool_levels_grad_{ending}"
        original = getattr(OPS, name)
        monkeypatch.setattr(
            OPS, name, lambda *a, _f=original, _n=ending: called.append(_n) or _f(*a)
        )
    prroi_pool_levels(features, rois, levels, 3, SCALES).sum().backward()
    assert called == [wanted]
    assert features[0].grad is None


@pytest.mark.skipif(not HAS_CPP, reason="matrix products promise no such thing")
@pytest.mark.parametrize("channels", [5, 200])
def test_same_bits_for_any_number_of_threads_and_other_boxes(channels):
    features, rois, levels = problem(4, channels, 40, torch.float32)
    pool = lambda *args: prroi_pool_levels(*args, 7, SCALES)  # noqa: E731
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append(derivatives(pool, features, rois, levels))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))
    for n in range(0, 40, 9):
        alone = pool(features, rois[n : n + 1], levels[n : n + 1])
        assert torch.equal(alone[0], found[0][0][n])


@pytest.mark.parametrize("count", [0, 2])
def test_nothing_to_pool(backend, count):
    features, rois, levels = problem(0, count=count)
    features[1] = features[1][:, :, :0]
    found = derivatives(
        lambda *args: prroi_pool_levels(*args, 2, SCALES, backend), features, rois, levels * 0 + 1
    )
    assert found[0].shape == (count, 3, 2, 2)
    for each, like in zip(found, (found[0], rois, *features)):
        assert each.shape == like.shape
        assert (each == 0).all()


def test_bad_arguments_are_named(backend):
    features, rois, levels = problem(0)

    def pool(features=features, rois=rois, levels=levels, scales=SCALES):
        return prroi_pool_levels(features, rois, levels, 3, scales, backend)

    for bad in (-1, 4):
        wrong = levels.clone()
        wrong[5] = bad
        with pytest.raises(ValueError, match=rf"levels\[5\].*0\.\.3.*got {bad}"):
            pool(levels=wrong)
    wrong = rois.clone()
    wrong[5, 0] = 2
    with pytest.raises(ValueError, match="batch index"):
        pool(rois=wrong)
    with pytest.raises(ValueError, match="4 maps and 3 scales"):
        pool(scales=SCALES[:3])
    with pytest.raises(ValueError, match="0 maps"):
        pool(features=[], scales=[])
    with pytest.raises(ValueError, match=r"\(N,\) = \(9,\), got \(8,\)"):
        pool(levels=levels[1:])
    with pytest.raises(TypeError, match=r"integers.*levels\.long\(\)"):
        pool(levels=levels.float())
    with pytest.raises(ValueError, match="same batch size, channels and dtype"):
        pool(features=[features[0][:, :2], *features[1:]])
    with pytest.raises(ValueError, match="spatial_scale must be positive"):
        pool(scales=(*SCALES[:3], 0))


TRITON_IN_INTERPRETER = """
import torch
from ebm_ops.prroi_pool import levels as operators, triton, triton_into
from tolerances import TOLERANCE

sizes, scales = (9, 4, 3, 4, 0, 3), [0.9, 0.7, 1.3]
boxes = [[1, 1.3, 2.2, 3.9, 8.7], [0, -3, 1, 2.5, 30], [1, 2, 2, 2, 4], [0, 2.5, 7.1, 5.4, 9.9],
         [0, float("nan"), 1, 2, 3], [1, -1e9, -1e9, 1e9, 1e9], [0, 2.2, 1, 2.4, 1.01]]
levels = torch.tensor([0, 1, 0, 0, 1, 0, 1])
expected = operators._kernels_by_level()
for dtype, channels in ((torch.float64, 3), (torch.float32, 1)):
    rois = torch.tensor(boxes, dtype=dtype)
    maps = [torch.randn(2, channels, h, w, dtype=dtype) for h, w in zip(sizes[::2], sizes[1::2])]
    grad = torch.randn(len(boxes), channels, 1, 2, dtype=dtype)
    calls = {
        "forward": ("", (maps, rois, levels, 1, 2, scales)),
        "grad_rois": ("_grad_rois", (grad, maps, rois, levels, scales)),
        "grad_features": ("_grad_features", (grad, rois, levels, 2, sizes, scales)),
    }
    for name, (ending, arguments) in calls.items():
        found = getattr(triton, f"{name}_levels")(*arguments)
        wanted = expected[f"prroi_pool_levels{ending}"](*arguments)
        for a, b in zip(*([x] if torch.is_tensor(x) else x for x in (found, wanted)), strict=True):
            scale = b.abs().max().clamp(min=1) if b.numel() else 1
            torch.testing.assert_close(a / scale, b / scale, **TOLERANCE[dtype])
# Into buffers, with the channels last, of maps in half precision too; `rois` are float32 by now.
for half in (torch.bfloat16, torch.float16, torch.float32):
    given = [x.expand(-1, 3, -1, -1).to(half) for x in maps]
    pooled, partial = torch.full((7, 1, 2, 3), 7.0), torch.full((7, 2, 5), 7.0)
    grad = torch.randn(pooled.shape)
    triton_into.pool_into(pooled, given, rois, levels, scales)
    triton_into.grad_rois_into(partial, grad, given, rois, levels, scales)
    exact, first = [x.float() for x in given], grad.permute(0, 3, 1, 2).contiguous()
    wanted = expected["prroi_pool_levels"](exact, rois, levels, 1, 2, scales)
    torch.testing.assert_close(pooled, wanted.permute(0, 2, 3, 1), **TOLERANCE[torch.float32])
    wanted = expected["prroi_pool_levels_grad_rois"](first, exact, rois, levels, scales)
    torch.testing.assert_close(partial.sum(1), wanted, rtol=1e-5, atol=1e-5)
grad = torch.randn(len(boxes), 1, 1, 2)
# A box of no level has no area, and nothing is read outside of the maps.
for level in (-1, 3, 2**40):
    nowhere = torch.full_like(levels, level)
    assert not triton.forward_levels(maps, rois, nowhere, 1, 2, scales).any()
    assert not triton.grad_rois_levels(grad, maps, rois, nowhere, scales).any()
    for each in triton.grad_features_levels(grad, rois, nowhere, 2, sizes, scales):
        assert not each.any()
print("ok")
"""


@pytest.mark.slow
def test_triton_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    done = run_python(TRITON_IN_INTERPRETER, TRITON_INTERPRET="1")
    assert done.stdout.strip() == "ok", done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_agrees_with_cpu():
    features, rois, levels = problem(0, 40, 40, torch.float32)
    levels[7], found = 3, []
    for device in ("cuda", "cuda", "cpu"):
        moved = [x.to(device) for x in features], rois.to(device), levels.to(device)
        found.append(derivatives(lambda *args: prroi_pool_levels(*args, 7, SCALES), *moved))
    for first, second, cpu in zip(*found):
        assert torch.equal(first, second)
        scale = cpu.abs().max().clamp(min=1e-9)
        torch.testing.assert_close(first.cpu() / scale, cpu / scale, **TOLERANCE[torch.float32])


class _NoLaunch:
    """A kernel that does nothing, where only the shape of the result matters."""

    def __getitem__(self, grid):
        return lambda *args, **options: None


def _listed(result) -> list[Tensor]:
    return [result] if torch.is_tensor(result) else result


def _converted(x, convert):
    """An argument of an operator with its tensors converted."""
    if torch.is_tensor(x):
        return convert(x)
    return [_converted(each, convert) for each in x] if isinstance(x, list) else x


def _detached(x, channels_last: bool = False):
    def convert(t):
        layout = torch.channels_last if channels_last and t.dim() == 4 else torch.contiguous_format
        return t.detach().contiguous(memory_format=layout)

    return _converted(x, convert)
