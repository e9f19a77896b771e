"""A file has its old or its new content, whatever happens while it is written."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from mmengine.fileio import get_file_backend


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
