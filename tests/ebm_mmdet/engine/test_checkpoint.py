"""Atomic writes, the allow-list, and the choice of the checkpoint to resume from."""

from __future__ import annotations

import datetime
import enum
import logging
import os
import pathlib
import pickle
import re
import subprocess
import sys
import time
import zoneinfo
from collections import OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer, MessageHub, MMLogger
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import CheckpointLoader, load_checkpoint

from ebm_mmdet.engine import (
    CheckpointError,
    ReadableCheckpointHook,
    find_resumable_checkpoint,
    read_checkpoint,
)


@pytest.fixture
def messages(caplog):
    """Lines that mmengine's logger emits (it does not propagate to the root logger)."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.WARNING)
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.removeHandler(caplog.handler)


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


def test_resumes_from_the_latest_checkpoint_that_is_whole(tmp_path):
    assert find_resumable_checkpoint(tmp_path) is None
    save(tmp_path / "iter_1.pth", full_state(1), age=30)
    save(tmp_path / "iter_2.pth", full_state(2), age=20)
    save(tmp_path / "iter_3.pth", full_state(3), age=10)
    half = (tmp_path / "iter_3.pth").read_bytes()
    (tmp_path / "iter_3.pth").write_bytes(half[: len(half) // 2])
    save(tmp_path / "best_bbox_mAP_iter_2.pth", {"state_dict": {}}, age=0)  # no optimizer state
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_3.pth"))
    assert find_resumable_checkpoint(tmp_path) == str(tmp_path / "iter_2.pth")


def at_epoch(epoch: int) -> dict:
    """A training state after so many epochs of 100 iterations."""
    state = full_state(100 * epoch)
    state["meta"]["epoch"] = epoch
    return state


@pytest.mark.parametrize("ages", [(0, 10, 20), (10, 0, 20), (5, 5, 5)])
def test_times_of_files_do_not_decide_what_is_resumed(ages, tmp_path, messages):
    """`cp -r` writes the files of a folder in any order; 9 < 10, but not as names."""
    for epoch, age in zip((8, 9, 10), ages):
        save(tmp_path / f"epoch_{epoch}.pth", at_epoch(epoch), age)
    assert find_resumable_checkpoint(tmp_path) == str(tmp_path / "epoch_10.pth")
    if ages != (5, 5, 5):
        assert re.search(r"epoch_10\.pth, of iteration 1000, although .* later", messages()[-1])
    save(tmp_path / "best_mAP_epoch_10.pth", at_epoch(10), age=min(ages) - 1)
    assert find_resumable_checkpoint(tmp_path) == str(tmp_path / "best_mAP_epoch_10.pth")


@pytest.mark.parametrize(
    ("named", "ages", "expected"),
    [
        ("iter_2.pth", (9, 8, 7, 30), "iter_3.pth"),  # killed before the note was written
        ("iter_3.pth", (9, 8, 7, 30), "iter_3.pth"),  # begun again; iter_9 is of the old run
        ("iter_3.pth", (1, 9, 5, 5), "iter_9.pth"),  # as old as the named one: maybe after it
        ("iter_9.pth", (1, 2, 3, 30), "iter_9.pth"),  # a copy, whose times say nothing
        ("iter_4.pth", (9, 8, 7, 30), "iter_9.pth"),  # a note about a file that is gone
        (None, (9, 8, 7, 30), "iter_9.pth"),
    ],
)
def test_the_note_of_the_last_checkpoint_decides_unless_a_later_one_follows(
    named, ages, expected, tmp_path
):
    for iteration, age in zip((1, 2, 3, 9), ages):
        save(tmp_path / f"iter_{iteration}.pth", full_state(iteration), age)
    if named is not None:  # as in a folder that was copied
        (tmp_path / "last_checkpoint").write_text(f"/another place/{named}")
    assert find_resumable_checkpoint(tmp_path) == str(tmp_path / expected)


UNREADABLE = {
    "earlier by time and name": ("epoch_1.pth", 20, True),
    "of the same epoch": ("best_mAP_epoch_2.pth", 20, True),
    "newer": ("epoch_1.pth", 1, False),
    "later by name": ("epoch_3.pth", 20, False),
    "of an unknown epoch": ("mine.pth", 20, False),
    "counted otherwise": ("iter_201.pth", 20, False),
}


@pytest.mark.parametrize("kind", ["refused", "folder"])
@pytest.mark.parametrize(("name", "age", "harmless"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_stops_the_search_unless_it_is_earlier(
    kind, name, age, harmless, tmp_path
):
    save(tmp_path / "epoch_2.pth", at_epoch(2), age=10)
    path = tmp_path / name
    if kind == "folder":
        path.mkdir()
        stamp = time.time() - age
        os.utime(path, (stamp, stamp))
    else:
        save(path, {"mine": Unknown()}, age)
    if harmless:
        assert find_resumable_checkpoint(tmp_path) == str(tmp_path / "epoch_2.pth")
    else:
        with pytest.raises(CheckpointError, match=name):
            find_resumable_checkpoint(tmp_path)


@pytest.mark.parametrize("age", [1, 20])
@pytest.mark.parametrize(("epoch", "stops"), [(1, False), (2, False), (3, True), (None, True)])
def test_a_state_to_which_something_is_missing_stops_it_unless_it_is_earlier(
    epoch, stops, age, tmp_path
):
    save(tmp_path / "epoch_2.pth", at_epoch(2), age=10)
    state = at_epoch(epoch or 3)
    if epoch is None:
        del state["meta"]["iter"]
    else:
        del state["optimizer"]
    save(tmp_path / "other.pth", state, age)
    if stops:
        with pytest.raises(CheckpointError, match=r"other\.pth .*give another --work-dir"):
            find_resumable_checkpoint(tmp_path)
    else:
        assert find_resumable_checkpoint(tmp_path) == str(tmp_path / "epoch_2.pth")


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


@pytest.mark.parametrize("name", METAINFO)
def test_what_training_writes_is_read_back(name, tmp_path):
    torch.save({"meta": METAINFO[name]}, tmp_path / "x.pth")
    state = read_checkpoint(tmp_path / "x.pth")["meta"]
    assert type(state) is type(METAINFO[name])
    expected = pickle.loads(pickle.dumps(METAINFO[name]))  # numpy turns bytes round, for one
    assert repr(state) == repr(expected)


@pytest.mark.parametrize("name", METAINFO)
def test_what_can_be_read_is_written_unchanged(name):
    checkpoint = {"meta": {"dataset_meta": METAINFO[name]}}
    before = pickle.dumps(checkpoint["meta"]["dataset_meta"])
    ReadableCheckpointHook().before_save_checkpoint(None, checkpoint)
    after = checkpoint["meta"]["dataset_meta"]
    if name not in ("whole config", "numpy objects"):  # become a ConfigDict, a list
        assert repr(after) == repr(METAINFO[name])
        # What mmengine compares when it resumes, to warn of another data set.
        assert len(pickle.dumps(after)) == len(before)


class Colour(enum.Enum):
    RED = (255, 0, 0)


class Name(str):
    pass


class Unknown:
    def __repr__(self):
        return "<Unknown>"


def test_what_could_not_be_read_is_written_as_what_it_stands_for(tmp_path, messages):
    checkpoint = {
        "meta": {
            "dataset_meta": {
                "queue": deque([1, 2], maxlen=2),
                "default": defaultdict(list, a=[Name("x")]),
                "colour": Colour.RED,
                "strange": [1, Unknown()],
                "records": np.array([(1, 2.5)], dtype=[("a", int), ("b", float)]),
                "masked": np.ma.masked_array([1, 2], mask=[False, True]),
                "local time": datetime.datetime(2020, 1, 2, tzinfo=zoneinfo.ZoneInfo("UTC")),
                "type": float,
            }
        },
        "state_dict": {"w": torch.ones(1)},
    }
    weights = checkpoint["state_dict"]
    ReadableCheckpointHook().before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, tmp_path / "x.pth")
    state = read_checkpoint(tmp_path / "x.pth")
    assert state["meta"]["dataset_meta"] == {
        "queue": [1, 2],
        "default": {"a": ["x"]},
        "colour": (255, 0, 0),
        "strange": [1, "<Unknown>"],
        "records": [(1, 2.5)],
        "masked": [1, None],
        "local time": "2020-01-02T00:00:00+00:00",
        "type": float,
    }
    (line,) = messages()
    assert "meta.dataset_meta.strange.1" in line
    assert "Unknown" in line
    assert checkpoint["state_dict"] is weights


def schedulers():
    """Every scheduler of mmengine for the learning rate, as a training has them."""
    common = dict(begin=0, end=5)
    special = dict(
        ConstantLR=dict(factor=0.5, **common),
        CosineAnnealingLR=dict(eta_min=0.1, **common),
        CosineRestartLR=dict(periods=[2, 3], restart_weights=[1, 1], eta_min=0.1),
        ExponentialLR=dict(gamma=0.9, **common),
        LinearLR=dict(start_factor=0.1, **common),
        MultiStepLR=dict(milestones=[1, 2], **common),
        OneCycleLR=dict(eta_max=1.0, total_steps=5),
        PolyLR=dict(**common),
        ReduceOnPlateauLR=dict(monitor="loss"),
        StepLR=dict(step_size=2, **common),
    )
    return [pytest.param(name, options, id=name) for name, options in special.items()]


@pytest.mark.parametrize(("name", "options"), schedulers())
def test_the_state_of_every_scheduler_is_read_back(name, options, tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    scheduler = PARAM_SCHEDULERS.build(
        dict(type=name, **options), default_args=dict(optimizer=optimizer)
    )
    checkpoint = {"param_schedulers": [scheduler.state_dict()]}
    ReadableCheckpointHook().before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, tmp_path / "x.pth")
    (state,) = read_checkpoint(tmp_path / "x.pth")["param_schedulers"]
    assert state.keys() == scheduler.state_dict().keys()
    assert state.get("anneal_func") is scheduler.state_dict().get("anneal_func")


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


def test_a_refused_type_stops_the_search_and_is_named(tmp_path):
    save(tmp_path / "iter_1.pth", full_state(), age=20)
    save(tmp_path / "iter_2.pth", {**full_state(), "mine": Unknown()}, age=10)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=r"iter_2\.pth was not read: .*Unknown") as raised:
        find_resumable_checkpoint(tmp_path)
    assert "add_safe_globals" in str(raised.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_legacy_file_is_neither_damaged_nor_absent(tmp_path):
    path = tmp_path / "iter_1.pth"
    torch.save(full_state(), path, _use_new_zipfile_serialization=False)
    assert find_resumable_checkpoint(tmp_path) == str(path)
    torch.save({"x": Unknown()}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"iter_1\.pth was not read: .*Unknown"):
        find_resumable_checkpoint(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_stops_the_search(tmp_path):
    save(tmp_path / "iter_1.pth", full_state(), age=20)
    (tmp_path / "iter_1.pth").chmod(0)
    with pytest.raises(CheckpointError, match="Permission denied"):
        find_resumable_checkpoint(tmp_path)


def test_an_error_while_reading_stops_the_search(tmp_path, monkeypatch):
    save(tmp_path / "iter_1.pth", full_state(), age=20)

    def broken(*_, **__):
        raise OSError("Input/output error")

    monkeypatch.setattr(torch, "load", broken)
    with pytest.raises(CheckpointError, match=r"iter_1\.pth cannot be read: Input/output"):
        find_resumable_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\0" * 5000], ids=["empty", "cut", "0"])
def test_only_damaged_files_are_not_a_beginning(content, tmp_path):
    (tmp_path / "iter_1.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole: iter_1\.pth"):
        find_resumable_checkpoint(tmp_path)
    assert (tmp_path / "iter_1.pth").read_bytes() == content


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


def test_a_training_that_was_saved_without_its_optimizer_is_not_begun_again(tmp_path):
    state = full_state()
    del state["optimizer"]
    save(tmp_path / "iter_1.pth", state, age=20)
    with pytest.raises(CheckpointError, match=r"save_optimizer=False.*--work-dir"):
        find_resumable_checkpoint(tmp_path)


def test_a_folder_with_the_name_of_a_checkpoint_is_not_absent(tmp_path):
    (tmp_path / "iter_1.pth").mkdir()
    with pytest.raises(CheckpointError, match=r"iter_1\.pth is a folder, as DeepSpeed"):
        find_resumable_checkpoint(tmp_path)


def test_weights_alone_are_nothing_to_resume(tmp_path):
    save(tmp_path / "downloaded.pth", {"state_dict": {}, "meta": {"epoch": 12}}, age=1)
    save(tmp_path / "plain.pth", {"w": torch.ones(1)}, age=0)
    assert find_resumable_checkpoint(tmp_path) is None


def test_a_checkpoint_in_another_folder_is_found(tmp_path):
    work_dir, elsewhere = tmp_path / "work", tmp_path / "else where"
    work_dir.mkdir()
    elsewhere.mkdir()
    save(elsewhere / "iter_4.pth", full_state(), age=1)
    (work_dir / "last_checkpoint").write_text(str(elsewhere / "iter_4.pth"))
    assert find_resumable_checkpoint(work_dir) == str(elsewhere / "iter_4.pth")
    (work_dir / "last_checkpoint").write_text("s3://bucket/iter_4.pth")
    with pytest.raises(CheckpointError, match=r"names s3://bucket/iter_4\.pth"):
        find_resumable_checkpoint(work_dir)
    (work_dir / "last_checkpoint").write_text("")
    assert find_resumable_checkpoint(work_dir) is None
