"""Checkpoints of trainings, and what may be in one."""

from __future__ import annotations

import datetime
import os
import pathlib
import time
from collections import OrderedDict

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub


def full_state(iteration: int = 7) -> dict:
    hub = MessageHub.get_instance("test_checkpoint")
    hub.update_scalar("train/loss", np.float64(1.5))
    hub.update_scalar("train/lr", 0.1)
    hub.update_scalar("train/steps", torch.tensor(3.0))
    hub.update_info("iter", 7)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    return {
        "state_dict": {"w": weight.data},
        "optimizer": optimizer.state_dict(),
        "message_hub": hub.state_dict(),
        "meta": {"iter": iteration, "best": np.float32(0.5), "classes": {np.str_("DontCare"): -1}},
    }


def save(path, state, age):
    torch.save(state, path)
    stamp = time.time() - age
    os.utime(path, (stamp, stamp))


# What a data set's `metainfo` may hold, and what mmengine's parts put into a checkpoint.
METAINFO = {
    "config": ConfigDict(classes=("a", "b"), nested=ConfigDict(palette=[(1, 2, 3)])),
    "whole config": Config(dict(a=dict(b=1))),
    "numpy scalars": [np.dtype(kind).type(1) for kind in "?bhilqBHILQefdgFD"],
    "numpy arrays": [np.ones(2, kind) for kind in "?bhilqBHILQefdgFD"],
    "numpy strings": [np.str_("x"), np.bytes_(b"x"), np.array(["a", "bc"]), np.array([b"a"])],
    "numpy times": [np.datetime64("2020-01-01"), np.array(["2020-01-01"], "M8[D]")],
    "numpy objects": np.array(["a", None], dtype=object),
    "big-endian": np.arange(3, dtype=">i4"),
    "dates": [
        datetime.date(2020, 1, 2),
        datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.timezone.utc),
        datetime.time(1, 2),
        datetime.timedelta(days=1),
    ],
    "paths": [pathlib.Path("a b/c"), pathlib.PurePosixPath("/x"), pathlib.PureWindowsPath("c:/x")],
    "containers": [{1, 2}, frozenset("a"), (1, (2,)), OrderedDict(a=1), slice(1, 2), range(3)],
    "torch": [torch.float16, torch.device("cpu"), torch.ones(2).shape],
    "numbers": [True, 1 << 80, 1.5, 1j, b"bytes", bytearray(b"x"), None],
}


class Unknown:
    def __repr__(self):
        return "<Unknown>"
