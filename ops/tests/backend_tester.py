"""Tests that run each backend of an operator in its own environment; see `OperatorTester`.

These are sanitizers, Triton's interpreter and compiler, a Python without the extension, a GPU.
"""

from __future__ import annotations

import subprocess
from abc import abstractmethod
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from property_tester import PropertyTester
from surroundings import COMPILER, HAS_CPP, SOURCES, TESTS, run_python
from tolerances import TOLERANCE

# `Tester` is the class of the operator's tests.
HIDE_EXTENSION = """
import sys, logging
sys.modules["ebm_ops._C"] = None      # as if it had not been built
logging.basicConfig(format="%(message)s")
"""
WITHOUT_EXTENSION = """
import torch, ebm_ops
from tolerances import TOLERANCE

assert ebm_ops.backend_info()["cpu"].name == "reference"
tester = Tester()
for dtype in (torch.float64, torch.float32):
    features, boxes, images = tester.problem(0, dtype=dtype)
    found = []
    for backend in ("auto", "auto", "reference"):
        f, b = features.clone().requires_grad_(), boxes.clone().requires_grad_()
        pooled = tester.pool(f, b, images, backend=backend)
        first = torch.autograd.grad(pooled.square().sum(), (f, b), create_graph=True)
        found.append([pooled, *first, *torch.autograd.grad(first[1].square().sum(), (f, b))])
    for a, b in zip(found[1], found[2]):
        scale = b.abs().max()
        torch.testing.assert_close(a / scale, b / scale, **TOLERANCE[dtype])
    compiled = torch.compile(lambda *a: tester.pool(*a), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features, boxes, images), found[0][0])
try:
    tester.pool(features, boxes, images, backend="cpp")
except RuntimeError as error:
    assert "not available" in str(error) and "g++" in str(error)
else:
    raise SystemExit("a missing backend was accepted")
print("ok")
"""
EVERYTHING = """
import torch
torch.set_num_threads(1)
print([t.double().abs().sum().item().hex() for t in Tester().everything(70)])
"""


class _NoLaunch:
    """A kernel that does nothing, where only the shape of the result matters."""

    def __getitem__(self, grid):
        return lambda *args, **options: None


def _laid_out(x, layout: str):
    """The values of a tensor, in another layout; "expanded" repeats those of the last column."""
    if not torch.is_tensor(x):
        return x
    x = x.detach()
    if layout == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed" and x.dim() > 1:
        return x.mT.contiguous().mT
    if layout == "expanded" and x.dim() == 4:
        return x[..., -1:].expand(x.shape)
    return x.contiguous()


class BackendTester(PropertyTester):
    """The tests of the backends that both operators share.

    Attributes:
        interpreter_script: compares `triton` and `reference` and prints ok.
        varying: integer arguments of kernels that differ between images.
    """

    interpreter_script: ClassVar[str]
    varying: ClassVar[set[str]]

    @abstractmethod
    def implementations(self, name: str) -> dict[str, Callable[..., Tensor]]:
        """Everything that computes the registered operator of this name: cpp, triton, ..."""

    @abstractmethod
    def triton_kernels(self, real: str) -> Iterable[tuple[str, list[str], dict]]:
        """Name, types of the arguments and constants of every kernel, for a type of real."""

    def run_with_tester(self, script: str, before: str = ""):
        """Run a script in which `Tester` is this class."""
        import_it = f"from test_{self.name} import {type(self).__name__} as Tester"
        return run_python("\n".join([before, import_it, script]))

    @pytest.mark.slow
    @pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
    def test_a_thousand_nasty_cases_under_sanitizers(self, tmp_path):
        """Out-of-bounds and undefined behaviour in every variant of the kernel; see the program."""
        program = tmp_path / "fuzz"
        flags = (
            "-std=c++17 -O0 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all -Wno-psabi"
        )
        source = TESTS / f"{self.name}_fuzz.cpp"
        command = [COMPILER, *flags.split(), f"-I{SOURCES / self.name}", source, "-o", program]
        build = subprocess.run(command, capture_output=True, text=True)
        assert build.returncode == 0, build.stderr
        fuzz = subprocess.run([program, "1000", "0"], capture_output=True, text=True, timeout=600)
        assert fuzz.returncode == 0, fuzz.stdout + fuzz.stderr
        assert fuzz.stdout.startswith("ok: 1000 cases")

    @pytest.mark.slow
    def test_triton_kernels_in_the_interpreter(self):
        pytest.importorskip("triton")
        done = run_python(self.interpreter_script, TRITON_INTERPRET="1")
        assert done.stdout.strip() == "ok", done.stderr

    @pytest.mark.parametrize("capability", [80, 90])
    def test_triton_kernels_compile_for_real_gpus(self, capability, tmp_path, monkeypatch):
        """Compile to machine code, which needs no GPU; only running it does."""
        triton = pytest.importorskip("triton")
        compiler = pytest.importorskip("triton.backends.compiler")
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        from triton.compiler import ASTSource

        kernels = import_module(f"ebm_ops.{self.name}.triton")
        for real in ("*fp32", "*fp64"):
            for name, types, constants in self.triton_kernels(real):
                function = getattr(kernels, name)
                constants = {k: v for k, v in constants.items() if k in function.arg_names}
                types = [*types, *["constexpr"] * len(constants)]
                signature = dict(zip(function.arg_names, types, strict=True))
                source = ASTSource(function, signature, constexprs=constants)
                target = compiler.GPUTarget("cuda", capability, 32)
                assert triton.compile(source, target=target).asm["cubin"]

    def test_triton_kernels_are_not_compiled_again_for_other_images(self):
        pytest.importorskip("triton")
        kernels = import_module(f"ebm_ops.{self.name}.triton")
        for name in {kernel[0] for kernel in self.triton_kernels("*fp32")}:
            parameters = getattr(kernels, name).params
            general = {p.name for p in parameters if p.do_not_specialize}
            assert general == self.varying & {p.name for p in parameters}

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "expanded"])
    def test_strides_are_those_that_compilers_are_told(self, layout, opcheck_case, monkeypatch):
        """Of every implementation, for inputs of any layout: torch.compile relies on them."""
        kernels = import_module(f"ebm_ops.{self.name}.triton")
        for name in {kernel[0] for kernel in self.triton_kernels("*fp32")}:
            monkeypatch.setattr(kernels, name, _NoLaunch())
        for operator, arguments in self.opcheck_calls(torch.float32, opcheck_case):
            arguments = [_laid_out(x, layout) for x in arguments]
            with FakeTensorMode() as mode:
                fakes = [mode.from_tensor(x) if torch.is_tensor(x) else x for x in arguments]
                told = operator(*fakes)
            name = operator._schema.name.partition("::")[2]
            for kind, implementation in self.implementations(name).items():
                found = implementation(*arguments)
                assert found.shape == told.shape, (name, kind)
                assert found.stride() == told.stride(), (name, kind)

    def test_works_without_the_extension_and_says_so_once(self):
        done = self.run_with_tester(WITHOUT_EXTENSION, before=HIDE_EXTENSION)
        assert done.stdout.strip() == "ok", done.stderr
        said = [line for line in done.stderr.splitlines() if "reference in use" in line]
        assert len(said) == 1
        assert "install g++ and reinstall" in said[0]

    @pytest.mark.skipif(not HAS_CPP, reason="no C++ backend")
    def test_forced_backend_is_used(self, monkeypatch):
        def fail(*_):
            pytest.fail("the reference was called")

        monkeypatch.setattr(self.reference, "forward", fail)
        self.pool(*self.problem(0), backend="cpp")

    def test_same_bits_in_another_process(self):
        runs = [self.run_with_tester(EVERYTHING) for _ in range(2)]
        assert runs[0].stdout, runs[0].stderr
        assert runs[0].stdout == runs[1].stdout

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    def test_gpu_agrees_with_cpu(self):
        inputs = self.problem_of_backends(0, 40, torch.float32, 40)
        grad = torch.randn(len(inputs[1]), 40, *self.size)
        tangent, found = torch.randn(inputs[1].shape), []
        for device in ("cuda", "cuda", "cpu"):
            moved = [t.to(device) for t in (*inputs, grad, tangent)]
            found.append(self.derivatives(moved[:3], *moved[3:], backend="auto"))
        for first, second, cpu in zip(*found):
            assert torch.equal(first, second)
            scale = cpu.abs().max()
            torch.testing.assert_close(first.cpu() / scale, cpu / scale, **TOLERANCE[torch.float32])
