"""Atomic writes of checkpoints, and a search for the newest intact one."""

from __future__ import annotations

import io
import os
from pathlib import Path

import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log

from ..files import PARTIAL, write_bytes
from .safe_loading import CheckpointError, is_cut_off, read_checkpoint

__all__ = ["AtomicLocalBackend", "find_resumable_checkpoint", "write_checkpoint"]


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
    """Path of the newest intact training checkpoint in a folder; None if there is none.

    Candidates are the ``*.pth`` files of the folder and the file that mmengine's
    ``last_checkpoint`` names (which is elsewhere with ``CheckpointHook(out_dir=...)``), newest
    first. ``last_checkpoint`` alone is not reliable: after a process was killed at the wrong
    moment it may be empty, or name a file that no longer exists.

    - A file that was truncated, by a killed process or a full disk, is reported and skipped.
    - A file without a training state, such as downloaded weights, is skipped.
    - An intact file that cannot be read, or was saved without its optimizer, stops the search:
      continuing from an older one, or from the beginning, would discard work and finally delete it.

    Partial checkpoints that a killed process left are removed, because training continues here and
    nothing else would remove them. Every process of a distributed training may do so: none of them
    writes before all have finished this search.

    Raises:
        CheckpointError: there are checkpoints, but training cannot continue from them.
    """
    work_dir = Path(work_dir)
    for half in work_dir.glob(f".*.pth.*{PARTIAL}"):
        half.unlink(missing_ok=True)
    files = {
        path.resolve(): path for path in [*work_dir.glob("*.pth"), *_last_checkpoint(work_dir)]
    }
    damaged = []
    for path in sorted(files.values(), key=lambda path: path.stat().st_mtime, reverse=True):
        if not path.is_file():
            raise CheckpointError(
                f"{path} is a folder, as DeepSpeed writes checkpoints: give the one to go on from "
                "to --resume by name. Nothing was changed."
            )
        if os.access(path, os.R_OK) and is_cut_off(path):
            damaged.append(path)
            print_log(
                f"Not resuming from {path}: it is not a whole checkpoint "
                f"({path.stat().st_size} bytes)",
                logger="current",
                level=30,
            )
            continue
        state = read_checkpoint(path, mmap=True)
        if not isinstance(state, dict) or "message_hub" not in state:
            if not (isinstance(state, dict) and "optimizer" in state):
                continue  # weights without a training state
        elif "optimizer" not in state:
            raise CheckpointError(
                f"{path} was saved without its optimizer (CheckpointHook(save_optimizer=False)): "
                "training cannot go on from it, and beginning again here would overwrite it. "
                f"Nothing was changed; give another --work-dir, with load_from={path}."
            )
        return str(path)
    if damaged:
        raise CheckpointError(
            f"no checkpoint in {work_dir} is whole: {', '.join(path.name for path in damaged)}. "
            "Nothing was changed; move these files away to begin again, or give another --work-dir."
        )
    return None


def _last_checkpoint(work_dir: Path) -> list[Path]:
    """The file that mmengine's ``last_checkpoint`` names, if it exists."""
    note = work_dir / "last_checkpoint"
    named = note.read_text(encoding="utf-8").strip() if note.is_file() else ""
    if "://" in named:
        raise CheckpointError(
            f"{note} names {named}, which is not a local file: give it to --resume by name."
        )
    if named and Path(named).is_file():
        return [Path(named)]
    if named and not (work_dir / Path(named).name).is_file():
        print_log(f"{note} names {named}, which does not exist", logger="current", level=30)
    return []


register_backend("atomic", AtomicLocalBackend, force=True)
