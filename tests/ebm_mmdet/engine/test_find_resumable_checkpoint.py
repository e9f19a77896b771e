"""The choice of the checkpoint to resume from."""

from __future__ import annotations

import os
import re
import time

import pytest
import torch

from ebm_mmdet.engine import (
    CheckpointError,
    find_resumable_checkpoint,
    refuse_earlier_training,
)
from tests.ebm_mmdet.engine.training_states import Unknown, full_state, save


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


@pytest.mark.parametrize("name", ["epoch_3.pth", "iter_2000.pth"])
def test_checkpoints_of_an_earlier_training_are_not_written_over(name, tmp_path):
    refuse_earlier_training(tmp_path / "not there")
    (tmp_path / "downloaded.pth").touch()
    (tmp_path / "iter_1.log").touch()
    refuse_earlier_training(tmp_path)
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match=rf"{name} .*--resume .*--work-dir"):
        refuse_earlier_training(tmp_path)
