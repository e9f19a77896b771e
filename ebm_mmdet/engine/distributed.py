"""Training and testing with several processes, with or without GPUs."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta

import torch
import torch.distributed
from mmengine.config import Config

__all__ = ["prepare_distributed"]

# The environment variables in which each launcher sets rank and world size of a process;
# `pytorch` uses torch's own names.
LAUNCHER_VARIABLES = {
    "pytorch": {},
    "slurm": {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"},
    "mpi": {
        "RANK": "OMPI_COMM_WORLD_RANK",
        "WORLD_SIZE": "OMPI_COMM_WORLD_SIZE",
        "LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_RANK",
    },
}


def prepare_distributed(cfg: Config, launcher: str) -> None:
    """Let a config run with several processes without GPUs; with GPUs, do nothing.

    mmengine connects the processes with NCCL and binds each to a GPU. Without CUDA this function
    changes ``env_cfg.dist_cfg.backend`` to ``gloo`` and ``model_wrapper_cfg`` to one without a
    device, in place, and joins the process group, which `mmengine.runner.Runner` then uses.

    Args:
        cfg: the config from which a runner will be built.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.

    Raises:
        RuntimeError: the launcher's environment variables are not set.
    """
    if launcher == "none" or torch.cuda.is_available():
        return
    dist_cfg = cfg.setdefault("env_cfg", {}).setdefault("dist_cfg", {})
    dist_cfg["backend"] = "gloo"
    wrapper = cfg.get("model_wrapper_cfg") or {}
    wrapper.setdefault("type", "MMDistributedDataParallel")
    wrapper.setdefault("broadcast_buffers", False)
    wrapper.setdefault("find_unused_parameters", cfg.get("find_unused_parameters", False))
    wrapper["device_ids"] = None
    cfg.model_wrapper_cfg = wrapper

    for ours, theirs in LAUNCHER_VARIABLES[launcher].items():
        if theirs not in os.environ:
            raise RuntimeError(
                f"--launcher {launcher} expects the variable {theirs}, which is not set: start "
                f"this script through {launcher}, or use tools/dist_train.sh"
            )
        os.environ[ours] = os.environ[theirs]
    if launcher == "slurm" and "MASTER_ADDR" not in os.environ:
        hosts = subprocess.check_output(
            ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]], text=True
        )
        os.environ["MASTER_ADDR"] = hosts.split()[0]
    os.environ.setdefault("MASTER_PORT", "29500")
    if not torch.distributed.is_initialized():
        seconds = dist_cfg.get("timeout")
        timeout = None if seconds is None else timedelta(seconds=seconds)
        torch.distributed.init_process_group("gloo", timeout=timeout)
