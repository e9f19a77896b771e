"""What `setup.py` needs to compile the C++ operators. They are optional: see :func:`extensions`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_OPERATORS = ("prroi_pool", "rotated_grid_pool")
_SOURCES = ("module.cpp", *(f"{name}/cpu.cpp" for name in _OPERATORS))
_HEADERS = (
    "each_isa.h",
    "vector.h",
    *(f"{name}/{header}.h" for name in _OPERATORS for header in ("kernel", "simd")),
)


def extensions() -> list:
    """The C++ extension `ebm_ops._C`, or nothing where it cannot be built.

    Nothing is built when the environment variable `EBM_OPS_BUILD` is 0, when torch or a C++
    compiler (`CXX`, else `c++`, `g++` or `clang++`) is missing, and on Windows. One printed line
    says so; the operators then run on their PyTorch reference.

    Returns:
        list: at most one `torch.utils.cpp_extension.CppExtension` with `optional=True`. Its paths
        are relative to the folder of `setup.py`.
    """
    missing = _why_not()
    if missing:
        print(f"ebm_ops: no C++ extension ({missing}); the PyTorch reference is used instead.")
        return []
    from torch.utils.cpp_extension import CppExtension

    folder = Path(__file__).resolve().parent.name
    return [
        CppExtension(
            "ebm_ops._C",
            [f"{folder}/{name}" for name in _SOURCES],
            depends=[f"{folder}/{name}" for name in _HEADERS],
            # No -std: torch adds the one that its headers ask for. No -march: the kernels choose
            # their instructions when they run, so that one build serves every processor.
            extra_compile_args=["-O3", "-g0", "-ffp-contract=fast", "-Wno-psabi", *_openmp()],
            optional=True,
        )
    ]


def _openmp() -> list[str]:
    """`-fopenmp` where torch runs its threads with OpenMP and the compiler speaks GCC's dialect.

    It is a compile flag only. The runtime behind it is found through libtorch, which already
    brings one; linking the system's would put a second pool of threads beside torch's own.
    """
    import torch

    if "backend: OpenMP" not in torch.__config__.parallel_info():
        return []
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")))
    version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True)
    if "clang" in version.stdout.lower():
        print("ebm_ops: clang's OpenMP is not torch's; the C++ operators will use one thread.")
        return []
    return ["-fopenmp"]


def _why_not() -> str | None:
    if os.environ.get("EBM_OPS_BUILD", "1") == "0":
        return "EBM_OPS_BUILD=0"
    if sys.platform == "win32":
        return "the kernels use GCC vector types"
    try:
        import torch  # noqa: F401
    except ImportError:
        return "torch is not installed; install it first and use --no-build-isolation"
    compilers = [os.environ.get("CXX", "").split(" ")[0], "c++", "g++", "clang++"]
    if not any(name and shutil.which(name) for name in compilers):
        return "no C++ compiler found; install g++"
    return None
