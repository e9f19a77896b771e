"""Which backend serves tensors of which device, and why."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger("ebm_ops")


@dataclass(frozen=True)
class Backend:
    """The implementation that serves tensors of one device type.

    Attributes:
        name: `"cpp"`, `"triton"` or `"reference"`.
        why: the reason, one sentence for the user.
    """

    name: str
    why: str


def backend_info() -> dict[str, Backend]:
    """The backend for `"cpu"` and for `"cuda"` tensors on this machine."""
    return {"cpu": _cpu(), "cuda": _cuda()}


@functools.cache
def _cpu() -> Backend:
    # torch itself loads the libraries that the extension is linked against.
    import torch  # noqa: F401

    try:
        import ebm_ops._C as extension
    except ModuleNotFoundError as error:
        if error.name != "ebm_ops._C":
            raise
        return Backend(
            "reference",
            "the C++ extension is not built (no compiler at installation, or EBM_OPS_BUILD=0); "
            "install g++ and reinstall",
        )
    except ImportError as error:
        return Backend(
            "reference",
            f"the C++ extension does not load ({error}); it was probably built for another torch: "
            "reinstall",
        )
    if not extension.threaded:
        return Backend(
            "cpp",
            "the C++ extension is loaded; it was built without OpenMP and uses one thread only",
        )
    return Backend("cpp", "the C++ extension is loaded")


@functools.cache
def _cuda() -> Backend:
    import torch

    if importlib.util.find_spec("triton") is None:
        return Backend("reference", "triton is not installed")
    if not torch.cuda.is_available():
        return Backend("triton", "triton is installed; no GPU is visible, so it stays unused")
    if not _c_compiler():
        return Backend(
            "reference",
            "triton finds no C compiler, with which it builds its launchers; install gcc, or set "
            "CC to a compiler",
        )
    return Backend("triton", "triton is installed and a GPU is visible")


def _c_compiler() -> str | None:
    """The compiler that Triton would take, or None."""
    names = (os.environ["CC"],) if os.environ.get("CC") else ("gcc", "clang")
    # CC may have blanks in its path, or arguments, such as "ccache gcc".
    paths = (shutil.which(name) or shutil.which(_first_word(name)) for name in names)
    return next((path for path in paths if path), None)


def _first_word(command: str) -> str:
    try:
        return shlex.split(command)[0]
    except (ValueError, IndexError):  # a quote without its other half; blanks alone
        return command


def late(module: str, name: str) -> Callable:
    """The function `name` of a module that is imported when the function is first called."""

    def call(*args):
        return getattr(importlib.import_module(module), name)(*args)

    return call


def require(backend: str, device: str) -> None:
    """Raise unless `backend` (`"auto"`, `"cpp"`, `"triton"`) can serve tensors on `device`.

    Raises:
        ValueError: unknown backend.
        RuntimeError: the backend cannot serve this device on this machine; the message says why.
    """
    if backend == "auto":
        return
    devices = {"cpp": "cpu", "triton": "cuda"}
    if backend not in devices:
        raise ValueError(f"backend must be 'auto', 'cpp', 'triton' or 'reference', got {backend!r}")
    if device != devices[backend]:
        raise RuntimeError(f"backend {backend!r} serves {devices[backend]} tensors, got {device}")
    found = backend_info()[device]
    if found.name != backend:
        raise RuntimeError(f"backend {backend!r} is not available: {found.why}")


def extension_lacks(operator: str) -> bool:
    """Whether the C++ extension is loaded but older than this operator."""
    import torch

    name = f"ebm_ops::{operator}"
    return _cpu().name == "cpp" and not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")


@functools.cache
def warn_slow(device: str, why: str | None = None) -> None:
    """Log once per process that the slow reference serves this device, and the remedy."""
    why = why or backend_info()[device].why
    logger.warning("ebm_ops: PyTorch reference in use on %s: %s.", device, why)
