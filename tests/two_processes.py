"""Run a function in two gloo processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

__all__ = ["in_two_processes"]


def in_two_processes(work: Callable[[int, str], None], folder: object) -> None:
    """Call ``work(rank, folder)`` in two processes of one thread that are a process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_process, (port, work, str(folder)), nprocs=2)


def _process(rank: int, port: int, work: Callable[[int, str], None], folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    work(rank, folder)
    dist.barrier()
    # Without the destructors: that of torch's DDP waits for a thread of gloo while it holds the
    # interpreter's lock, for which that thread may be waiting.
    os._exit(0)
