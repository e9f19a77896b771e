"""Each implementation in its own surroundings: sanitizers, Triton's interpreter, no compiler."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

import ebm_ops
from ebm_ops import backends
from operator_tester import COMPILER, HAS_CPP, SOURCES, run_python
from rotated_boxes import WHERE, problem
from tolerances import TOLERANCE


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_a_thousand_nasty_cases_under_sanitizers(tmp_path):
    """Out-of-bounds and undefined behaviour in every variant of the kernel; see the program."""
    program = tmp_path / "fuzz"
    flags = "-std=c++17 -O0 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all -Wno-psabi"
    build_run = subprocess.run(
        [COMPILER, *flags.split(), f"-I{SOURCES / 'rotated_grid_pool'}",
         str(Path(__file__).with_name("rotated_grid_pool_fuzz.cpp")), "-o", str(program)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert build_run.returncode == 0, build_run.stderr
    fuzz = subprocess.run([program, "1000", "0"], capture_output=True, text=True, timeout=600)
    assert fuzz.returncode == 0, fuzz.stdout + fuzz.stderr
    assert fuzz.stdout.startswith("ok: 1000 cases")


TRITON_IN_INTERPRETER = """
import torch
from ebm_ops.rotated_grid_pool import reference, triton
from tolerances import TOLERANCE

nan, inf = float("nan"), float("inf")
boxes = [[1.2, -0.3, 1.1, 0.6, 0.4], [0.1, -0.8, 2.2, 0.9, -2.0], [1.2, nan, 1, 1, 1],
         [1, 0, 1, 1, inf], [1, 0.07, -1.3, 0, 9], [1e30, 0, 1, 1, 0]]
index = torch.tensor([1, 0, 1, 0, 1, 0])
for dtype, channels, samples in ((torch.float64, 3, 0), (torch.float32, 1, 3)):
    grid = reference.Grid(1, 2, samples, 0.3, -1.0, 0.4, 0.06)
    where = torch.tensor(boxes, dtype=dtype)
    bev = torch.randn(2, channels, 4, 5, dtype=dtype)
    grad = torch.randn(len(boxes), channels, 1, 2, dtype=dtype)
    for tangent in (None, torch.randn(len(boxes), 5, dtype=dtype)):
        for name, arguments in (
            ("forward", (bev, where, index, tangent, grid)),
            ("grad_boxes", (grad, bev, where, index, tangent, grid)),
            ("grad_bev", (grad, where, index, tangent, (2, 4, 5), grid)),
        ):
            found = getattr(triton, name)(*arguments)
            expected = getattr(reference, name)(*arguments)
            scale = expected.abs().max().clamp(min=1)
            assert expected.abs().max() > 0
            torch.testing.assert_close(found / scale, expected / scale, **TOLERANCE[dtype])
try:
    triton.forward(bev, where, index + 1, None, grid)
except ValueError as error:
    assert "batch_index[0]" in str(error)
else:
    raise SystemExit("a batch index out of range was accepted")
for count in (0, 1):
    found = triton.forward(bev[:, :0], where[:count], index[:count], None, grid)
    assert found.shape == (count, 0, 1, 2)
    empty = grad[:count, :0], bev[:, :0], where[:count], index[:count], None, grid
    assert triton.grad_boxes(*empty).shape == (count, 5)
print("ok")
"""


@pytest.mark.slow
def test_triton_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    done = run_python(TRITON_IN_INTERPRETER, TRITON_INTERPRET="1")
    assert done.stdout.strip() == "ok", done.stderr


@pytest.mark.parametrize("capability", [80, 90])
def test_triton_kernels_compile_for_real_gpus(capability, tmp_path, monkeypatch):
    """Down to machine code, which needs no GPU; running them does."""
    triton = pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.backends.compiler")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.compiler import ASTSource

    from ebm_ops.rotated_grid_pool import triton as kernels

    for real in ("*fp32", "*fp64"):
        boxes = [real, real, "*i64", "*fp64"]  # boxes, tangent, images, where
        functions = {
            kernels._forward: [real, *boxes, real, *["i32"] * 5],
            kernels._grad_boxes: [real, real, *boxes, "*fp64", *["i32"] * 5],
            kernels._grad_bev: [real, "*fp64", "*i64", "*i64", real, *["i32"] * 2],
        }
        for function, types in functions.items():
            for tangent in (False, True):
                constants = {"TANGENT": tangent, "BLOCK": 256}
                constants = {k: v for k, v in constants.items() if k in function.arg_names}
                source = ASTSource(
                    function,
                    dict(zip(function.arg_names, [*types, *["constexpr"] * len(constants)])),
                    constexprs=constants,
                )
                target = compiler.GPUTarget("cuda", capability, 32)
                assert triton.compile(source, target=target).asm["cubin"]


WITHOUT_EXTENSION = """
import sys, logging
sys.modules["ebm_ops._C"] = None      # as if it had not been built
logging.basicConfig(format="%(message)s")
import torch, ebm_ops
from rotated_boxes import WHERE, problem
from tolerances import TOLERANCE

bev, boxes, index = problem(0)
found = []
for backend in ("auto", "reference"):
    f, b = bev.clone().requires_grad_(), boxes.clone().requires_grad_()
    pooled = ebm_ops.rotated_grid_pool(f, b, index, backend=backend, **WHERE)
    first = torch.autograd.grad(pooled.square().sum(), (f, b), create_graph=True)
    found.append([pooled, *first, *torch.autograd.grad(first[1].square().sum(), (f, b))])
for x, y in zip(*found):
    torch.testing.assert_close(x, y, **TOLERANCE[torch.float64])
compiled = torch.compile(lambda *a: ebm_ops.rotated_grid_pool(*a, **WHERE), fullgraph=True,
                         backend="aot_eager")
torch.testing.assert_close(compiled(bev, boxes, index), found[0][0])
try:
    ebm_ops.rotated_grid_pool(bev, boxes, index, backend="cpp", **WHERE)
except RuntimeError as error:
    assert "not available" in str(error) and "g++" in str(error)
print("ok")
"""


def test_works_without_the_extension_and_says_so_once():
    done = run_python(WITHOUT_EXTENSION)
    assert done.stdout.strip() == "ok", done.stderr
    said = [line for line in done.stderr.splitlines() if "reference in use" in line]
    assert len(said) == 1
    assert "install g++ and reinstall" in said[0]


@pytest.mark.skipif(not HAS_CPP, reason="no C++ backend")
def test_an_extension_from_older_sources_is_noticed():
    """Sources updated without a rebuild: the operator is missing, and the reference steps in."""
    library = torch.library.Library("ebm_ops", "FRAGMENT")
    library.define("an_operator_of_tomorrow(Tensor x) -> Tensor")
    assert backends.extension_lacks("an_operator_of_tomorrow")
    assert not backends.extension_lacks("prroi_pool")


@pytest.mark.skipif(not HAS_CPP, reason="no C++ backend")
def test_forced_backend_is_used(monkeypatch):
    from ebm_ops.rotated_grid_pool import reference

    monkeypatch.setattr(reference, "forward", lambda *_: pytest.fail("the reference was called"))
    ebm_ops.rotated_grid_pool(*problem(0), backend="cpp", **WHERE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_agrees_with_cpu():
    bev, boxes, index = problem(0, 40, 40, torch.float32)
    grad, tangent, found = torch.randn(40, 40, 4, 7), torch.randn(40, 5), []
    for device in ("cuda", "cuda", "cpu"):
        f, b, g = (t.detach().to(device).requires_grad_() for t in (bev, boxes, grad))
        pooled = ebm_ops.rotated_grid_pool(f, b, index.to(device), **WHERE)
        first = torch.autograd.grad(pooled, (f, b), g, create_graph=True)
        found.append(
            [pooled, *first, *torch.autograd.grad(first[1], (f, b, g), tangent.to(device))]
        )
    for first, second, cpu in zip(*found):
        assert torch.equal(first, second)
        scale = cpu.abs().max()
        torch.testing.assert_close(first.cpu() / scale, cpu / scale, **TOLERANCE[torch.float32])
