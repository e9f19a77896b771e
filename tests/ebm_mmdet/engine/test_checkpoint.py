"""Atomic writes, the allow-list, and the choice of the checkpoint to resume from."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer, MessageHub

from ebm_mmdet.engine import find_resumable_checkpoint


def atomic():
    return get_file_backend(backend_args={"backend": "atomic"})


def test_put_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "sub" / "x.pth"
    atomic().put(b"old", path)
    atomic().put(b"new", path)
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["x.pth"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    atomic().put(b"old", path)

    def disk_full(_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        atomic().put(b"new", path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.pth"]


def test_kill_9_while_writing_never_leaves_half_a_file(tmp_path):
    path = tmp_path / "x.pth"
    script = (
        "import sys; from ebm_mmdet.engine import AtomicLocalBackend as B\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for byte in (b'a', b'b'): B().put(byte * 30_000_000, sys.argv[1])\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, str(path)], stdout=subprocess.PIPE
    )
    child.stdout.readline()
    deadline = time.time() + 60
    while not path.exists() and time.time() < deadline:
        time.sleep(0.01)
    time.sleep(0.137)
    child.kill()
    child.wait()
    content = path.read_bytes()
    assert len(content) == 30_000_000
    assert len(set(content)) == 1


def full_state() -> dict:
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
        "meta": {"iter": 7, "best": np.float32(0.5), "classes": {np.str_("DontCare"): -1}},
    }


def test_a_full_training_checkpoint_loads_with_weights_only(tmp_path):
    torch.save(full_state(), tmp_path / "x.pth")
    state = torch.load(tmp_path / "x.pth", weights_only=True)
    buffer = state["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(buffer, HistoryBuffer)
    assert buffer.current() == 1.5


class Payload:
    def __init__(self, function, *args):
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "payload",
    [Payload(os.system, "true"), Payload(getattr, HistoryBuffer, "__init__")],
    ids=["system", "getattr"],
)
def test_anything_else_is_still_refused(payload, tmp_path):
    torch.save({"state_dict": {}, "x": payload}, tmp_path / "x.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.pth", weights_only=True)


def save(path, state, age):
    torch.save(state, path)
    stamp = time.time() - age
    os.utime(path, (stamp, stamp))


def test_resumes_from_the_newest_checkpoint_that_is_whole(tmp_path):
    assert find_resumable_checkpoint(tmp_path) is None
    save(tmp_path / "iter_1.pth", full_state(), age=30)
    save(tmp_path / "iter_2.pth", full_state(), age=20)
    save(tmp_path / "iter_3.pth", full_state(), age=10)
    half = (tmp_path / "iter_3.pth").read_bytes()
    (tmp_path / "iter_3.pth").write_bytes(half[: len(half) // 2])
    save(tmp_path / "best_bbox_mAP_iter_2.pth", {"state_dict": {}}, age=0)  # no optimizer state
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_3.pth"))
    assert find_resumable_checkpoint(tmp_path) == str(tmp_path / "iter_2.pth")
