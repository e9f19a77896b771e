"""Recorded climbs: made when they are first needed, the least recently used forgotten."""

from __future__ import annotations

import contextlib
import gc
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..heads import EnergyHead
from .map_buffers import MapBuffers
from .products import Precision, products_in

__all__ = ["BUCKETS", "Graphs", "Plan", "Recipe", "graphs_of", "record"]

BUCKETS = (16, 32, 64, 128, 256, 512)
"""Numbers of boxes for which there are graphs; fewer are filled up with boxes without area."""


class Plan(Protocol):
    """A climb of N boxes on buffers that stay where they are, all launches in one method."""

    recipe: Recipe
    maps: MapBuffers
    y: Tensor
    """(N, D) float32, the points that were reached."""
    f: Tensor
    """(N,) float32, their log-density, that of the posterior where there is a prior."""
    accepted: Tensor
    """(N,) int64, the number of steps that moved each."""

    def load(self, inputs: Tensor) -> None:
        """Take what differs from box to box, (n, columns) float32 of n ≤ N boxes."""

    def run(self) -> None:
        """All launches, in order; reads nothing back and copies nothing from the host."""


class Recipe(Protocol):
    """What a plan depends on beside head and maps, a hashable value that also makes the plan."""

    precision: Precision

    def settings(self, head: EnergyHead) -> Hashable:
        """What the plan depends on of a head, beside the places of its tensors."""

    def plan(self, head: EnergyHead, maps: MapBuffers, others: Iterable[Plan]) -> Plan:
        """Make it. ``others`` are plans for the same tensors of the head.

        It holds no head: graphs live as long as the head that they belong to.
        """


_recording = threading.Lock()
"""One recording at a time: precision of products and CUDA's capture belong to the process."""


def record(plan: Plan) -> Callable[[], None]:
    """Record a plan as a CUDA graph; returns what runs it on the current stream.

    If it fails, the current stream of the thread is the same as before, and waits for what has
    been queued, so that the plan's buffers may be freed.
    """
    device, precision = torch.cuda.device(plan.y.device), products_in(plan.recipe.precision)
    with _recording, device, precision, _without_collection():
        current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(current)
        try:
            with torch.cuda.stream(stream):
                # Compiles the kernels, and makes the handle of cuBLAS.
                for _ in range(2):
                    plan.run()
            current.wait_stream(stream)
            _forget_workspaces()
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                plan.run()
        finally:
            torch.cuda.set_stream(current)  # torch does not, where the end of a capture fails
            current.wait_stream(stream)
            _forget_workspaces()
    return graph.replay


def _forget_workspaces() -> None:
    """Let cuBLAS make new workspaces.

    That of a recorded product must lie in the memory of its graph, and be used by nothing else:
    torch frees the others whenever it records a graph of its own.
    """
    if hasattr(torch._C, "_cuda_clearCublasWorkspaces"):
        torch._C._cuda_clearCublasWorkspaces()


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """No garbage is collected: what is freed may wait for the device, which ends a capture."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Recorded(NamedTuple):
    plan: Plan
    replay: Callable[[], None]


class Graphs:
    """The recorded climbs of one head on one device, and the buffers that they share.

    Any number of threads and streams may call it: one climb runs after another, on the host and on
    the device, because all use the same buffers.

    Args:
        make: makes what repeats a plan, :func:`record`.
    """

    MOST = 8
    """So many graphs are kept, each for a number of boxes, steps, a precision, ..."""

    def __init__(self, make: Callable[[Plan], Callable[[], None]] = record) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._recorded: OrderedDict[tuple, _Recorded] = OrderedDict()
        self._maps: dict[torch.dtype, MapBuffers] = {}
        self._last_run: torch.cuda.Event | None = None
        self.failure: str | None = None
        """Why a climb could not be recorded. It is not tried again."""

    def __len__(self) -> int:
        return len(self._recorded)

    def climb(
        self, head: EnergyHead, recipe: Recipe, feats: Sequence[Tensor], inputs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Run the climb of n boxes.

        Args:
            head: one that the recipe is for.
            recipe: of a plan for at least n boxes.
            feats: what the head's ``prepare`` returned.
            inputs: (n, columns) float32 that the plan loads.

        Returns:
            New tensors: points (n, D), log-density (n,) float32, accepted steps (n,) int64. None if
            the climb could not be recorded, see :attr:`failure`.
        """
        with self._lock, torch.cuda.device_of(inputs):
            if self.failure is not None:
                return None
            self._order_streams()
            try:
                found = self._find(head, recipe, feats)
            except Exception as error:
                # A compiler, a driver, memory: a prediction must not fail for what only saves time.
                self.failure = f"{type(error).__name__}: {error}".partition("\n")[0]
                self._forget_all()
                return None
            found.plan.maps.load(feats)
            found.plan.load(inputs)
            found.replay()
            n, plan = len(inputs), found.plan
            result = plan.y[:n].clone(), plan.f[:n].clone(), plan.accepted[:n].clone()
            if inputs.is_cuda:
                self._last_run = torch.cuda.current_stream().record_event()
            return result

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # Python, or the driver, may be shutting down
            self._wait()

    def _find(self, head: EnergyHead, recipe: Recipe, feats: Sequence[Tensor]) -> _Recorded:
        dtype = torch.bfloat16 if recipe.precision == "bf16x2" else torch.float32
        maps = self._maps.get(dtype)
        if maps is None or not maps.fits(feats):
            # Larger buffers lie elsewhere: what was recorded with the others is of no use.
            self._forget(lambda other, kept: kept.maps.flat.dtype == dtype)
            maps = self._maps[dtype] = MapBuffers(feats, dtype, maps)
        key = (type(recipe), recipe, recipe.settings(head), _addresses(head))
        found = self._recorded.get(key)
        if found is None:
            # Plans of weights that have moved since would keep the old ones in memory.
            self._forget(lambda other, kept: other[-1] != key[-1])
            plan = recipe.plan(head, maps, [each.plan for each in self._recorded.values()])
            found = _Recorded(plan, self._make(plan))
            while len(self._recorded) >= self.MOST:
                self._wait()
                self._recorded.popitem(last=False)
            self._recorded[key] = found
        self._recorded.move_to_end(key)
        return found

    def _order_streams(self) -> None:
        """Let the current stream begin after the last run, which may be of another stream."""
        if self._last_run is not None:
            self._last_run.wait()

    def _wait(self) -> None:
        """Wait until the device no longer uses what is about to be freed."""
        if self._last_run is not None:
            self._last_run.synchronize()

    def _forget(self, chosen: Callable[[tuple, Plan], bool]) -> None:
        self._wait()
        for key in [key for key, found in self._recorded.items() if chosen(key, found.plan)]:
            del self._recorded[key]

    def _forget_all(self) -> None:
        self._forget(lambda key, plan: True)
        self._maps.clear()


def _addresses(head: EnergyHead) -> tuple[Any, ...]:
    """Where the head's tensors are, and their layout, all of which a graph records."""
    return tuple(
        (each.data_ptr(), each.dtype, tuple(each.shape), each.stride())
        for each in itertools.chain(head.parameters(), head.buffers())
    )


_lock = threading.Lock()
# Not an attribute of the head: copies of a model, and files, have no graphs.
_of_heads: WeakKeyDictionary[EnergyHead, dict[torch.device, Graphs]] = WeakKeyDictionary()


def graphs_of(head: EnergyHead, device: torch.device) -> Graphs:
    """The graphs of a head on a device, for as long as the head lives."""
    with _lock:
        found = _of_heads.setdefault(head, {})
        return found.setdefault(device, Graphs())
