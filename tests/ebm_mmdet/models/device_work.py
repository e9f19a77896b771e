"""Count what a GPU would have to do, and how often the host would have to wait, without a GPU."""

from __future__ import annotations

import collections
import contextlib
import importlib
import unittest.mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = {
    "_linalg_check_errors",
    "_local_scalar_dense",
    "cholesky_inverse",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
    "_unique2",
}
"""Operators whose result, or its shape, is known to the host only when the device is finished."""

FREE = {"alias", "detach", "empty", "empty_like", "empty_strided", "lift_fresh"}
FREE |= {"new_empty", "new_empty_strided", "_unsafe_view", "_reshape_alias"}
"""Operators without a kernel, beside views."""


class _Launch:
    """A Triton kernel that is counted and not run: ``kernel[grid](*args)``."""

    def __init__(self, work: DeviceWork, name: str) -> None:
        self.work, self.name = work, name

    def __getitem__(self, grid):
        return lambda *args, **options: self.work.operations.update([f"triton {self.name}"])


class _NumbersOfTheHost(TorchFunctionMode):
    """Counts tensors made on the device of numbers of the host, by a copy that waits."""

    def __init__(self, waits: collections.Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        makes = func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
        if makes and not _on_host(result) and not any(map(_on_device, args[-1:])):
            self.waits[func.__name__] += 1
        return result


class DeviceWork(TorchDispatchMode):
    """Counts operations of the device, and waits of the host for it.

    An operator with a Triton kernel counts as what its wrapper does: the wrapper runs, except for
    the kernels, which are counted. Tensors are to be on the device ``meta``: it has no values, so
    that a read of one is an error, and the code takes the way of a GPU.

    Attributes:
        operations: name of each operation that launches a kernel or a copy -> how often.
        waits: name of each operation for which the host waits -> how often.
        from_host: name of each operation that copies from the host -> how often. A CUDA graph would
            repeat the copy from memory that has another use by then, so none may be recorded.
        wrong_strides: operators whose wrapper returns other strides than torch.compile expects.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: collections.Counter[str] = collections.Counter()
        self.waits: collections.Counter[str] = collections.Counter()
        self.from_host: collections.Counter[str] = collections.Counter()
        self.wrong_strides: set[str] = set()
        self._entered: list[contextlib.ExitStack] = []

    def __enter__(self):
        stack = contextlib.ExitStack()
        # The device `meta` has no autocast, not even to switch off.
        stack.enter_context(unittest.mock.patch.object(torch, "autocast", _autocast_but_for_meta))
        stack.enter_context(_NumbersOfTheHost(self.waits))
        self._entered.append(stack)
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self._entered.pop().close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if func.namespace == "ebm_ops":
            return self._pool(func, name, args)
        result = func(*args, **kwargs)
        if func.is_view or name in FREE or func.namespace == "prim":
            return result
        if all(_on_host(x) for x in (result, *args)):
            return result
        self.operations[name] += 1
        waits = name in READS or (name in ("index", "index_put_") and _has_mask(args[1]))
        copies = name in ("_to_copy", "copy_") and _source(args).device != result.device
        if copies and _on_host(_source(args)):
            self.from_host[name] += 1
        if waits or (copies and not kwargs.get("non_blocking", False)):
            self.waits[name] += 1
        return result

    @contextlib.contextmanager
    def reading_ones(self):
        """Let all values that are read from ``meta`` be 1 or true; each read counts as a wait."""

        def counted(name: str):
            read = getattr(torch.Tensor, name)

            def instead(tensor: torch.Tensor):
                if not _on_host(tensor):
                    self.waits[name.strip("_")] += 1
                    tensor = torch.ones(tensor.shape, dtype=tensor.dtype)
                return read(tensor)

            return unittest.mock.patch.object(torch.Tensor, name, instead)

        with contextlib.ExitStack() as stack:
            for name in ("__bool__", "__int__", "tolist", "cpu"):
                stack.enter_context(counted(name))
            yield

    def _pool(self, func, name, args):
        """Run the wrapper of the Triton kernels, and return what the operator returns."""
        operator = name.partition("_grad_")[0]
        if operator == "rotated_grid_pool":
            operators = importlib.import_module("ebm_ops.rotated_grid_pool.operators")
            wrappers = operators._kernels(operators._triton)
        else:
            where = "prroi_pool.levels" if operator == "prroi_pool_levels" else "prroi_pool"
            wrappers = importlib.import_module(f"ebm_ops.{where}")._triton_kernels()
        package = operator.removesuffix("_levels")
        with self, self._stubbed(importlib.import_module(f"ebm_ops.{package}.triton")):
            wrapped = wrappers[name](*args)
        result = func(*args)
        for a, b in zip(_listed(wrapped), _listed(result), strict=True):
            if a.stride() != b.stride() or a.shape != b.shape:
                self.wrong_strides.add(name)
        return result

    @contextlib.contextmanager
    def _stubbed(self, kernels):
        names = [n for n in ("_forward", "_grad_rois", "_grad_features", "_grad_boxes", "_grad_bev")
                 if hasattr(kernels, n)]  # fmt: skip
        kept = {name: getattr(kernels, name) for name in names}
        for name in names:
            setattr(kernels, name, _Launch(self, name))
        try:
            yield
        finally:
            for name, kernel in kept.items():
                setattr(kernels, name, kernel)


HOST = "cpu"


def _autocast_but_for_meta(device_type: str, *args, **kwargs):
    if device_type == "meta":
        return contextlib.nullcontext()
    return _AUTOCAST(device_type, *args, **kwargs)


_AUTOCAST = torch.autocast


def _on_host(x) -> bool:
    return not isinstance(x, torch.Tensor) or x.device.type == HOST


def _on_device(x) -> bool:
    return not _on_host(x)


def _listed(result) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else result


def _has_mask(indices) -> bool:
    return any(x is not None and x.dtype == torch.bool for x in indices)


def _source(args) -> torch.Tensor:
    return args[1] if len(args) > 1 and isinstance(args[1], torch.Tensor) else args[0]
