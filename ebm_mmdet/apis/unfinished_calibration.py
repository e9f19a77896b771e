"""What an interrupted calibration knows, for the call that goes on with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor

from ..engine import read_checkpoint, write_checkpoint
from ..files import file_digest
from .fitting.folder import describe_inputs
from .fitting.items import UnreadableItem
from .unfinished_file import UnfinishedFile

__all__ = ["KeptMatches", "UnfinishedCalibration"]

SAVE_SECONDS = 30.0


class UnfinishedCalibration(UnfinishedFile):
    """A folder ``NAME.pth.unfinished`` beside the checkpoint that a calibration writes.

    To be made before the model and the data set, which write into their config.

    Args:
        out: the checkpoint to write.
        cfg: config of the detector.
        checkpoint: its checkpoint.
        ann_files: annotations of the calibration.
        settings: what else decides which detections are kept. What can be chosen afterwards, such
            as joint bounds, is not among them.

    Raises:
        FileExistsError: an interrupted call has left a folder, and its inputs were others.
        FileNotFoundError: there is no such checkpoint.
    """

    def __init__(
        self,
        out: Path,
        cfg: Config,
        checkpoint: Path,
        ann_files: Sequence[str | os.PathLike],
        **settings: object,
    ) -> None:
        # One that is not there is said later.
        annotations = [file_digest(name) for name in ann_files if os.path.isfile(name)]
        settings = dict(annotations=annotations, **settings)
        super().__init__(out, describe_inputs(cfg, checkpoint, settings), "calibration")

    @contextmanager
    def begin(self, say: Callable[[str], None]) -> Iterator[Path]:
        """The folder, see :meth:`claimed`.

        After another ``ValueError`` than that of a file that can be repaired, the next call will
        have other settings, so the folder is removed.
        """
        with self.claimed(say) as folder:
            try:
                yield folder
            except UnreadableItem:
                raise
            except ValueError:
                self.remove()
                raise


class KeptMatches:
    """Matched detections of the first images, in files ``part_00000.pth`` of a folder if given.

    Each file has the images since the one before, and is complete or not there at all. Leaving a
    ``with`` block saves what is new, also after Ctrl-C.

    Args:
        folder: of an :class:`UnfinishedCalibration`; its files are read at once. None keeps
            everything in memory.
        spread: kind of the spread, if it is known before the first detection.
    """

    def __init__(self, folder: Path | None, spread: str | None) -> None:
        self._folder = folder
        self._rows: list[tuple[Tensor, ...]] = []
        self.images = 0
        """Number of images that are done."""
        self.spread = spread
        """Kind of the spread."""
        self._files, self._new, self._saved = 0, [], time.monotonic()
        while folder is not None and (path := self._path()).exists():
            part = read_checkpoint(path)
            if part["first"] != self.images:  # two processes have written here
                break
            self.images, self.spread = part["images"], spread or part["spread"]
            self._rows += [tuple(row) for row in part["rows"]]
            self._files += 1

    def __enter__(self) -> KeptMatches:
        return self

    def __exit__(self, *error: object) -> None:
        self._save()

    def add(self, *row: Tensor) -> None:
        """Take the columns of the next image, none if nothing matches; saved every half a minute.

        Args:
            row: (k, ...) each, for the k matched detections.
        """
        self.images += 1
        self._new.append(row)
        self._rows += [row] if row else []
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self._save()

    def columns(self, *empty: Tensor) -> list[Tensor]:
        """The columns of all images, (n, ...) each.

        Args:
            empty: each column without detections, (0, ...).
        """
        return [torch.cat(column) for column in zip(empty, *self._rows)]

    def _path(self) -> Path:
        return self._folder / f"part_{self._files:05d}.pth"

    def _save(self) -> None:
        if self._folder is not None and self._new:
            part = dict(first=self.images - len(self._new), images=self.images, spread=self.spread)
            rows = [row for row in self._new if row]
            write_checkpoint(self._path(), {**part, "rows": rows})
            self._files, self._new = self._files + 1, []
        self._saved = time.monotonic()
