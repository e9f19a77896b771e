"""What `setup.py` needs to compile the optional C++ operators, see :func:`extensions`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig

_OPERATORS = ("prroi_pool", "rotated_grid_pool")
_SOURCES = ("module.cpp", *(f"{name}/cpu.cpp" for name in _OPERATORS))
_HEADERS = (
    "each_isa.h",
    "transpose.h",
    "vector.h",
    *(f"{name}/{header}.h" for name in _OPERATORS for header in ("kernel", "simd")),
)


def extensions() -> list:
    """The C++ extension `ebm_ops._C`, or nothing where it cannot be built.

    It is compiled against the torch of the environment that the package is installed into. Nothing
    is built when the environment variable `EBM_OPS_BUILD` is 0, when torch or a C++ compiler
    (`CXX`, else `c++`, `g++` or `clang++`) is missing, or on Windows. One printed line then gives
    the reason, and the operators run on their PyTorch reference.

    Returns:
        list: at most one `torch.utils.cpp_extension.CppExtension` with `optional=True`. Its paths
        are relative to the folder of `setup.py`.
    """
    missing = _why_not()
    if missing:
        print(f"ebm_ops: no C++ extension ({missing}); the PyTorch reference is used instead.")
        return []
    from torch.utils.cpp_extension import CppExtension

    return [
        CppExtension(
            "ebm_ops._C",
            [f"ebm_ops/{name}" for name in _SOURCES],
            depends=[f"ebm_ops/{name}" for name in _HEADERS],
            # No -std: torch adds the one that its headers need. No -march: the kernels choose
            # their instructions when they run, so that one build serves every processor.
            extra_compile_args=["-O3", "-g0", "-ffp-contract=fast", "-Wno-psabi", *_openmp()],
            optional=True,
        )
    ]


def _openmp() -> list[str]:
    """`-fopenmp` if torch runs its threads with OpenMP and the compiler accepts GCC's flag.

    It is a compile flag only. The OpenMP runtime is the one that libtorch already loads; linking
    the system's runtime would add a second pool of threads beside torch's own.
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


def _find_torch() -> bool:
    """Whether torch can be imported, if necessary from the environment around an isolated build.

    pip builds in an environment of its own, without torch. Asking for torch there would download
    a second torch, and the extension would be compiled against it instead of against the torch
    with which it has to work. pip runs the build with the Python of the environment that it
    installs into, so that environment's packages can still be found; they are searched last, after
    those of the build.
    """
    if importlib.util.find_spec("torch") is None:
        sys.path += [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
        importlib.invalidate_caches()
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def _why_not() -> str | None:
    if os.environ.get("EBM_OPS_BUILD", "1") == "0":
        return "EBM_OPS_BUILD=0"
    if sys.platform == "win32":
        return "the kernels use GCC vector types"
    if not _find_torch():
        return (
            "torch is not installed in this environment; install it first, then reinstall ebm-ops"
        )
    compilers = [os.environ.get("CXX", "").split(" ")[0], "c++", "g++", "clang++"]
    if not any(name and shutil.which(name) for name in compilers):
        return "no C++ compiler found; install g++"
    return None
