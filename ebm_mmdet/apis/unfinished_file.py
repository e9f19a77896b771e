"""What an interrupted call has done of the file that it writes, for the call that goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..engine.stored_intervals import refuse_existing
from ..files import differing_keys, read_json
from .fitting.folder import SETTINGS, check_folder, claim_folder, held

__all__ = ["UnfinishedFile"]

OPTION = "--out"


class UnfinishedFile:
    """A folder ``NAME.unfinished`` beside the file that a call writes at its end.

    Args:
        out: the file to write.
        settings: all that the content of the folder depends on; JSON types.
        what: what is unfinished, a noun for messages.

    Raises:
        FileExistsError: an interrupted call with other settings has left a folder.
    """

    def __init__(self, out: Path, settings: dict, what: str) -> None:
        self._out, self._settings, self._what = out, settings, what
        self.folder = out.with_name(f"{out.name}.unfinished")
        check_folder(self.folder, settings, what, OPTION)

    @contextmanager
    def claimed(self, say: Callable[[str], None]) -> Iterator[Path]:
        """The folder, for this process alone; it is kept if the work in it is interrupted.

        The file is to be written within, so that no other call writes it meanwhile.

        Args:
            say: receives a line if an earlier call has begun.

        Raises:
            FileExistsError: another call is at work for the same file, or has written it.
        """
        resumed = claim_folder(self.folder, self._settings, self._what, OPTION)
        with held(self.folder, OPTION):
            self._refuse_what_came_before(resumed)
            if resumed:
                say(f"going on from {self.folder}")
            yield self.folder

    def _refuse_what_came_before(self, resumed: bool) -> None:
        """Of a call that began, or ended, after this one had looked and before it had the folder.

        Raises:
            FileExistsError: the file is there now, or the folder is of other settings.
        """
        try:
            refuse_existing(self._out)
        except FileExistsError:
            if not resumed:  # nothing is in it yet
                self.remove()
            raise
        stored = read_json(self.folder / SETTINGS) or {}
        if stored != self._settings:
            changed = ", ".join(differing_keys(stored, self._settings))
            raise FileExistsError(
                f"another {self._what} has begun in {self.folder} meanwhile, with another "
                f"{changed}; give another {OPTION}"
            )

    def remove(self) -> None:
        """Remove the folder, when the file is written."""
        shutil.rmtree(self.folder)
