"""A checkpoint on a full disk: the reason is said, with the file, and the old one stays."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from ebm_mmdet.engine import read_checkpoint, write_checkpoint


def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "my head.pth"
    write_checkpoint(path, dict(w=torch.arange(3)))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*my head\.pth'"):
            write_checkpoint(path, dict(w=torch.arange(9)))
    assert read_checkpoint(path)["w"].tolist() == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [path]
