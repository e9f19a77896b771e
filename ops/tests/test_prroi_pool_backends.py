"""Each implementation in its own surroundings: sanitizers, Triton's interpreter, no compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import ebm_ops
from ebm_ops import backend_info
from operator_tester import COMPILER, HAS_CPP, PROJECT, SOURCES, load_build_extension, run_python
from quadrature import random_rois

build = load_build_extension()


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_a_thousand_nasty_cases_under_sanitizers(tmp_path):
    """Out-of-bounds and undefined behaviour in every variant of the kernel; see the program."""
    program = tmp_path / "fuzz"
    flags = "-std=c++17 -O0 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all -Wno-psabi"
    build_run = subprocess.run(
        [COMPILER, *flags.split(), f"-I{SOURCES / 'prroi_pool'}",
         str(Path(__file__).with_name("prroi_pool_fuzz.cpp")), "-o", str(program)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert build_run.returncode == 0, build_run.stderr
    fuzz = subprocess.run([program, "1000", "0"], capture_output=True, text=True, timeout=600)
    assert fuzz.returncode == 0, fuzz.stdout + fuzz.stderr
    assert fuzz.stdout.startswith("ok: 1000 cases")


TRITON_IN_INTERPRETER = """
import torch
from ebm_ops.prroi_pool import reference, triton
from tolerances import TOLERANCE

nan, inf = float("nan"), float("inf")
boxes = [[1, 1.3, 2.2, 4.9, 3.7], [0, -3, 1, 2.5, 30], [1, 2, 2, 2, 4], [0, 4, 1, 1, 3],
         [0, nan, 1, 2, 3], [0, 1, 1, inf, 3], [1, -1e9, -1e9, 1e9, 1e9], [0, 2.2, 1, 2.4, 1.01]]
for dtype, channels in ((torch.float64, 3), (torch.float32, 1)):
    rois = torch.tensor(boxes, dtype=dtype)
    features = torch.randn(2, channels, 4, 5, dtype=dtype)
    grad = torch.randn(len(boxes), channels, 1, 2, dtype=dtype)
    for name, arguments in (
        ("grad_rois", (grad, features, rois, 0.9)),
        ("grad_features", (grad, rois, 2, 4, 5, 0.9)),
    ):
        found = getattr(triton, name)(*arguments)
        torch.testing.assert_close(found, getattr(reference, name)(*arguments), **TOLERANCE[dtype])
    torch.testing.assert_close(
        triton.forward(features, rois, 1, 2, 0.9),
        reference.forward(features, rois, (1, 2), 0.9), **TOLERANCE[dtype])
try:
    triton.forward(features, rois + 5, 1, 2, 0.9)
except ValueError as error:
    assert "rois[0, 0]" in str(error)
else:
    raise SystemExit("a batch index out of range was accepted")
for empty in (rois[:0], rois[:1]):
    assert triton.forward(features[:, :0], empty, 2, 2, 1.0).shape == (len(empty), 0, 2, 2)
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

    from ebm_ops.prroi_pool import triton as kernels

    for real in ("*fp32", "*fp64"):
        pointers = {
            kernels._forward: [real] * 3,
            kernels._grad_rois: [real] * 4,
            kernels._grad_features: [real, real, "*i64", "*i64", real],
        }
        for function, types in pointers.items():
            types = [*types, *["i32"] * 5, "constexpr"]
            source = ASTSource(
                function, dict(zip(function.arg_names, types)), constexprs={"BLOCK": 256}
            )
            target = compiler.GPUTarget("cuda", capability, 32)
            assert triton.compile(source, target=target).asm["cubin"]


WITHOUT_EXTENSION = """
import sys, logging
sys.modules["ebm_ops._C"] = None      # as if it had not been built
logging.basicConfig(format="%(message)s")
import torch, ebm_ops
from tolerances import TOLERANCE
assert ebm_ops.backend_info()["cpu"].name == "reference"
f = torch.randn(1, 3, 9, 9, requires_grad=True)
r = torch.tensor([[0, 1.0, 1, 6, 7]], requires_grad=True)
for _ in range(2):
    pooled = ebm_ops.prroi_pool(f, r, 7, 1.0)
torch.testing.assert_close(pooled, ebm_ops.prroi_pool(f, r, 7, 1.0, backend="reference"))
expected = torch.autograd.grad(
    ebm_ops.prroi_pool(f, r, 7, 1.0, backend="reference").sum(), (f, r), create_graph=True)
found = torch.autograd.grad(pooled.sum(), (f, r), create_graph=True)
for a, b in zip(found, expected):
    torch.testing.assert_close(a, b, **TOLERANCE[torch.float32])
    second = (torch.autograd.grad(t.square().sum(), r, retain_graph=True)[0] for t in (a, b))
    torch.testing.assert_close(*second, **TOLERANCE[torch.float32])
compiled = torch.compile(lambda f, r: ebm_ops.prroi_pool(f, r, 7, 1.0), fullgraph=True,
                         backend="aot_eager")
torch.testing.assert_close(compiled(f, r), pooled)
try:
    ebm_ops.prroi_pool(f, r, 7, 1.0, backend="cpp")
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


def test_import_needs_nothing_but_torch():
    script = (
        "import sys\n"
        "for name in ('mmcv', 'mmengine', 'mmdet', 'triton', 'numpy'): sys.modules[name] = None\n"
        "import torch, ebm_ops\n"
        "print(ebm_ops.prroi_pool(torch.ones(1, 1, 4, 4), torch.tensor([[0, 0., 0, 2, 2]]), 1, 1.))"
    )
    done = run_python(script)
    assert "1." in done.stdout, done.stderr


def test_backend_info_names_and_explains():
    info = backend_info()
    assert set(info) == {"cpu", "cuda"}
    assert info["cpu"].name in ("cpp", "reference")
    assert info["cuda"].name in ("triton", "reference")
    assert all(backend.why for backend in info.values())


def test_build_can_be_skipped(monkeypatch, capsys):
    monkeypatch.setenv("EBM_OPS_BUILD", "0")
    assert build.extensions() == []
    assert capsys.readouterr().out.count("\n") == 1
    monkeypatch.delenv("EBM_OPS_BUILD")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert build.extensions() == []
    assert "no C++ compiler found" in capsys.readouterr().out


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_build_lists_existing_files():
    (extension,) = build.extensions()
    assert extension.name == "ebm_ops._C"
    assert extension.optional
    assert all((PROJECT / name).is_file() for name in [*extension.sources, *extension.depends])


@pytest.mark.skipif(not HAS_CPP, reason="no C++ backend")
def test_threads_of_torch_are_used():
    """Compiled without OpenMP, at::parallel_for is a plain loop and nothing else tells so."""
    import ebm_ops._C

    if not build._openmp():
        pytest.skip("torch or the compiler has another kind of threads")
    assert ebm_ops._C.threaded
    if shutil.which("readelf"):  # torch's runtime is the only one: no second pool of threads
        dynamic = subprocess.run(["readelf", "-d", ebm_ops._C.__file__], capture_output=True)
        assert b"gomp" not in dynamic.stdout


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_agrees_with_cpu():
    from tolerances import TOLERANCE

    f, rois = torch.randn(2, 40, 30, 33), random_rois(40, 2, (33, 30), 1).float()
    grad, found = torch.randn(40, 40, 7, 7), []
    for device in ("cuda", "cuda", "cpu"):
        inputs = [t.detach().to(device).requires_grad_() for t in (f, rois)]
        pooled = ebm_ops.prroi_pool(*inputs, 7, 1.0)
        found.append([pooled, *torch.autograd.grad(pooled, inputs, grad.to(device))])
    for first, second, cpu in zip(*found):
        assert torch.equal(first, second)
        torch.testing.assert_close(first.cpu(), cpu, **TOLERANCE[torch.float32])


@pytest.mark.skipif(not HAS_CPP, reason="no C++ backend")
def test_forced_backend_is_used(monkeypatch):
    f, rois = torch.randn(1, 2, 5, 5), torch.tensor([[0, 1.0, 1, 3, 3]])
    from ebm_ops.prroi_pool import reference

    monkeypatch.setattr(reference, "forward", lambda *_: pytest.fail("the reference was called"))
    ebm_ops.prroi_pool(f, rois, 2, 1.0, backend="cpp")
