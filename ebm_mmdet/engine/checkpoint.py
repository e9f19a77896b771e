"""Atomic writes of checkpoints, and a search for the one to go on from."""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log

from ..files import PARTIAL, write_bytes
from .safe_loading import CheckpointError, is_cut_off, read_checkpoint

__all__ = [
    "AtomicLocalBackend",
    "find_resumable_checkpoint",
    "refuse_earlier_training",
    "write_checkpoint",
]


class AtomicLocalBackend(LocalBackend):
    """Writes local files atomically: if the process dies, the file has its old or its new content.

    Used by ``CheckpointHook(backend_args=dict(backend='atomic'))``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to ``filepath`` atomically; folders are created as needed."""
        write_bytes(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Write text atomically."""
        self.put(obj.encode(encoding), filepath)


def write_checkpoint(path: str | Path, content: object) -> None:
    """``torch.save`` into a file, atomically, through memory.

    ``torch.save`` into a file itself hides the reason when the disk is full.

    Raises:
        OSError: the file cannot be written; its old content stays.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())


def find_resumable_checkpoint(work_dir: str | Path) -> str | None:
    """Path of the intact training checkpoint of a folder that was saved last, if any.

    Candidates are the ``*.pth`` files of the folder and the file that mmengine's
    ``last_checkpoint`` names (which is elsewhere with ``CheckpointHook(out_dir=...)``). It is the
    named one, unless one of more iterations is not older: a process may be killed between
    checkpoint and note. Without a note that holds, it is the one with the most iterations. Times
    of files alone say little, because a copy of a folder gives all of them new ones; and
    iterations alone too, because somebody may have begun again in the folder of another run.

    - A file that was truncated, by a killed process or a full disk, is reported and skipped.
    - A file without a training state, such as downloaded weights, is skipped.
    - An intact file that cannot be read, or was saved without its optimizer, stops the search
      unless it is known to be no later than the one that was found: continuing from an older one,
      or from the beginning, would discard work and finally delete it. A file that cannot be read is
      known to be no later if neither its time nor the number in its name, ``epoch_3.pth``, is.

    Partial checkpoints that a killed process left are removed, because training continues here and
    nothing else would remove them. Every process of a distributed training may do so: none of them
    writes before all have finished this search.

    Args:
        work_dir: the folder; it may not exist.

    Returns:
        The path, or None if there is no checkpoint to go on from.

    Raises:
        CheckpointError: there are checkpoints, but training cannot continue from them.
    """
    work_dir = Path(work_dir)
    for half in work_dir.glob(f".*.pth.*{PARTIAL}"):
        half.unlink(missing_ok=True)
    files = {
        path.resolve(): path for path in [*work_dir.glob("*.pth"), *_last_checkpoint(work_dir)]
    }
    whole, useless, damaged = [], [], []
    for path in sorted(files.values(), key=lambda path: (_time(path), path.name), reverse=True):
        if path.is_file() and os.access(path, os.R_OK) and is_cut_off(path):
            damaged.append(path)
            print_log(
                f"Not resuming from {path}: it is not a whole checkpoint "
                f"({path.stat().st_size} bytes)",
                logger="current",
                level=30,
            )
            continue
        found = _candidate(path)
        if found is not None:
            (whole if found.fault is None else useless).append(found)
    named = {path.resolve() for path in _last_checkpoint(work_dir)}
    chosen = next((each for each in whole if each.path.resolve() in named), None)
    # The first of the largest, which is the newest of them.
    later = [each for each in whole if chosen is None or each.follows(chosen)]
    chosen = max(later, key=lambda candidate: candidate.iteration, default=chosen)
    for candidate in useless:
        if chosen is None or not candidate.is_no_later_than(chosen):
            raise candidate.fault
    if chosen is not None:
        if chosen is not whole[0] and chosen.path.resolve() not in named:
            print_log(
                f"Resuming from {chosen.path}, of iteration {chosen.iteration}, although "
                f"{whole[0].path}, of iteration {whole[0].iteration}, was written later; give "
                "--resume another one by name",
                logger="current",
                level=30,
            )
        return str(chosen.path)
    if damaged:
        raise CheckpointError(
            f"no checkpoint in {work_dir} is whole: {', '.join(path.name for path in damaged)}. "
            "Nothing was changed; move these files away to begin again, or give another --work-dir."
        )
    return None


def refuse_earlier_training(work_dir: str | Path) -> None:
    """Refuse a folder with checkpoints of an earlier training to one that begins anew.

    mmengine would write over those of the same iterations, and remove older ones.

    Raises:
        FileExistsError: there are some.
    """
    numbered = re.compile(r"(epoch|iter)_\d+\.pth")
    found = [path for path in Path(work_dir).glob("*.pth") if numbered.fullmatch(path.name)]
    if found:
        last = max(found, key=_time)
        raise FileExistsError(
            f"{last} is of an earlier training, whose checkpoints this one would overwrite and "
            "remove: --resume goes on with it, and --work-dir NAME begins in another folder; or "
            "move the folder away"
        )


@dataclass(frozen=True)
class _Candidate:
    """A checkpoint of a training, with its progress, or with why it cannot be gone on from."""

    path: Path
    progress: dict[str, int] = field(default_factory=dict)  # "epoch" and "iter", as far as known
    fault: CheckpointError | None = None

    @property
    def iteration(self) -> int | None:
        return self.progress.get("iter")

    def follows(self, other: _Candidate) -> bool:
        """Whether it has more iterations, and was not written before."""
        return self.iteration > other.iteration and _time(self.path) >= _time(other.path)

    def is_no_later_than(self, other: _Candidate) -> bool:
        """Whether this is surely not later than another, whose iteration is known."""
        if self.iteration is not None:
            return self.iteration <= other.iteration
        number = re.fullmatch(r"(?:.*_)?(epoch|iter)_(\d+)", self.path.stem)
        if number is None or _time(self.path) > _time(other.path):
            return False
        return int(number[2]) <= other.progress.get(number[1], -1)


def _candidate(path: Path) -> _Candidate | None:
    """What a path has to offer; None for weights without a training state."""
    if not path.is_file():
        return _Candidate(
            path,
            fault=CheckpointError(
                f"{path} is a folder, as DeepSpeed writes checkpoints: give the one to go on from "
                "to --resume by name. Nothing was changed."
            ),
        )
    try:
        state = read_checkpoint(path, mmap=True)
    except CheckpointError as error:
        return _Candidate(path, fault=error)
    if not isinstance(state, dict) or not {"message_hub", "optimizer"} & set(state):
        return None
    meta = state["meta"] if isinstance(state.get("meta"), dict) else {}
    progress = {key: meta[key] for key in ("epoch", "iter") if isinstance(meta.get(key), int)}
    fault = None
    if "optimizer" not in state:
        fault = CheckpointError(
            f"{path} was saved without its optimizer (CheckpointHook(save_optimizer=False)): "
            "training cannot go on from it, and beginning again here would overwrite it. "
            f"Nothing was changed; give another --work-dir, with load_from={path}."
        )
    elif "iter" not in progress:
        fault = CheckpointError(
            f"{path} does not say its iteration (an integer meta['iter']), without which training "
            "cannot go on from it. Nothing was changed; give another --work-dir, with "
            f"load_from={path}."
        )
    return _Candidate(path, progress, fault)


def _time(path: Path) -> float:
    return path.stat().st_mtime


def _last_checkpoint(work_dir: Path) -> list[Path]:
    """The file that mmengine's ``last_checkpoint`` names, if it exists."""
    note = work_dir / "last_checkpoint"
    named = note.read_text(encoding="utf-8").strip() if note.is_file() else ""
    if "://" in named:
        raise CheckpointError(
            f"{note} names {named}, which is not a local file: give it to --resume by name."
        )
    copied = work_dir / Path(named).name
    if named and copied.is_file():  # of a folder that was copied, the note names the other one
        return [copied]
    if named and Path(named).is_file():
        return [Path(named)]
    if named:
        print_log(f"{note} names {named}, which does not exist", logger="current", level=30)
    return []


register_backend("atomic", AtomicLocalBackend, force=True)
