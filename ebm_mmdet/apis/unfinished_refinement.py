"""What an interrupted refinement of a file has done, for the call that goes on with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..engine.stored_intervals import refuse_existing
from ..files import differing_keys, read_json
from .auditing.scoring import Scores
from .fitting.folder import SETTINGS, check_folder, claim_folder, held

__all__ = ["UnfinishedRefinement"]

WHAT = ("refinement", "--out")


class UnfinishedRefinement:
    """A folder ``NAME.json.unfinished`` beside the file that a refinement writes.

    Args:
        out: the file to write.
        settings: all that the refined boxes depend on, besides the images; JSON types.

    Raises:
        FileExistsError: ``out`` exists, or an interrupted call with other settings has left a
            folder.
        PermissionError, NotADirectoryError: ``out`` cannot be written there.
    """

    def __init__(self, out: str | os.PathLike, settings: dict) -> None:
        self._out, self._settings = Path(out), settings
        self.folder = self._out.with_name(f"{self._out.name}.unfinished")
        refuse_existing(self._out)
        check_folder(self.folder, settings, *WHAT)

    @contextmanager
    def begin(self, say: Callable[[str], None]) -> Iterator[Scores]:
        """What is known of each image, for this process alone; kept if the work is interrupted.

        The file is to be written within. At the end what is known is removed.

        Args:
            say: receives a line if an earlier call has begun.

        Raises:
            FileExistsError: another call is at work, or has written the file meanwhile.
        """
        resumed = claim_folder(self.folder, self._settings, *WHAT)
        with held(self.folder, WHAT[1]):
            try:
                refuse_existing(self._out)
            except FileExistsError:
                if not resumed:  # nothing is in it yet
                    shutil.rmtree(self.folder)
                raise
            stored = read_json(self.folder / SETTINGS) or {}
            if stored != self._settings:
                changed = ", ".join(differing_keys(stored, self._settings))
                raise FileExistsError(
                    f"another refinement has begun in {self.folder} meanwhile, with another "
                    f"{changed}; give another --out"
                )
            if resumed:
                say(f"going on from {self.folder}")
            yield Scores(self.folder / "images")
            shutil.rmtree(self.folder)
