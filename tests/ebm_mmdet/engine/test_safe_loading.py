"""The allow-list of types: what training writes is read, anything else is refused."""

from __future__ import annotations

import os
import pathlib
import pickle
import re

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, load_checkpoint

from ebm_mmdet.engine import CheckpointError, read_checkpoint
from tests.ebm_mmdet.engine.training_states import METAINFO, full_state


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


@pytest.mark.parametrize("name", METAINFO)
def test_what_training_writes_is_read_back(name, tmp_path):
    torch.save({"meta": METAINFO[name]}, tmp_path / "x.pth")
    state = read_checkpoint(tmp_path / "x.pth")["meta"]
    assert type(state) is type(METAINFO[name])
    expected = pickle.loads(pickle.dumps(METAINFO[name]))  # numpy turns bytes round, for one
    assert repr(state) == repr(expected)


def test_names_of_other_versions_are_read(tmp_path):
    """Files of numpy 1 under numpy 2 and the reverse, and of Python 3.13's pathlib."""
    value = {"array": np.arange(3), "scalar": np.float64(1.5), "path": pathlib.Path("a/b")}
    torch.save(value, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "x.pth").read_bytes()
    other = {
        b"numpy.core.multiarray": b"numpy._core.multiarray",
        b"numpy._core.multiarray": b"numpy.core.multiarray",
        b"cpathlib\n": b"cpathlib._local\n",
        b"cpathlib._local\n": b"cpathlib\n",
    }
    pattern = re.compile(b"|".join(re.escape(name) for name in sorted(other, key=len)[::-1]))
    content, replaced = pattern.subn(lambda match: other[match.group()], content)
    assert replaced >= 3
    (tmp_path / "x.pth").write_bytes(content)
    state = read_checkpoint(tmp_path / "x.pth")
    assert repr(state) == repr(value)
    content = content.replace(b"PosixPath", b"WindowsPath")
    (tmp_path / "x.pth").write_bytes(content)
    if os.name != "nt":
        assert read_checkpoint(tmp_path / "x.pth")["path"] == pathlib.PureWindowsPath("a/b")


def test_reading_survives_lists_that_others_allow_for_a_while(tmp_path):
    """As the maintained mmengine does at every load; at the end, torch removes its entries."""
    torch.save(full_state(), tmp_path / "x.pth")
    theirs = [getattr, np.ndarray, np.dtype, HistoryBuffer, type(np.dtype("f8")), slice]
    theirs.append(np.zeros(0).__reduce__()[0])
    with torch.serialization.safe_globals(theirs):
        torch.load(tmp_path / "x.pth", weights_only=True)
    torch.load(tmp_path / "x.pth", weights_only=True)


@pytest.mark.parametrize("how", ["load_checkpoint", "CheckpointLoader"])
def test_mmengine_reads_through_the_same_door(how, tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    path, marker = tmp_path / "x.pth", tmp_path / "ran"
    torch.save({"state_dict": {}, "x": Payload(os.system, f"touch '{marker}'")}, path)

    def load():
        if how == "load_checkpoint":
            return load_checkpoint(torch.nn.Linear(1, 1), str(path))
        return CheckpointLoader.load_checkpoint(str(path))

    with pytest.raises(CheckpointError, match=r"x\.pth was not read: .*posix\.system"):
        load()
    assert not marker.exists()
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        CheckpointLoader.load_checkpoint("nowhere.pth")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # the remedy that is named
    load()
    assert marker.exists()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\n<!DOCTYPE html><title>Sign in</title>", "a web page"),
        (b"<html lang='en'>404", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9", "a pointer of Git"),
    ],
)
def test_what_was_saved_in_place_of_a_checkpoint_is_named(content, what, tmp_path):
    (tmp_path / "best.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"best\.pth is no checkpoint but {what}"):
        read_checkpoint(tmp_path / "best.pth")
