"""Independent runs in processes of one thread each, which end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

__all__ = ["cores", "end_with_parent", "in_processes"]


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(function: Callable, calls: Sequence[tuple], jobs: int) -> Iterator[Any]:
    """Call a function with each tuple of arguments, ``jobs`` at a time.

    On few cores, networks of one thread side by side are faster than one network of several.

    Args:
        function: of a module, so that processes that are not forked find it.
        calls: the arguments of each call.
        jobs: number of processes.

    Yields:
        The results, in the order in which the calls end. An error ends the iteration, and calls
        that have not begun are left out.
    """
    # Not forked: a forked child may inherit locks of this process's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, max(len(calls), 1)), context, _prepare) as pool:
        futures = [pool.submit(function, *arguments) for arguments in calls]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def end_with_parent(interval: float = 1.0) -> None:
    """Let this process end, within ``interval`` seconds, when the one that started it has ended.

    Otherwise a run would go on after its study was killed, and write into the folder into which
    the next call of the study writes.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _prepare() -> None:
    end_with_parent()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    from mmdet.utils import register_all_modules

    import ebm_mmdet  # noqa: F401  (registers our types)

    register_all_modules()
