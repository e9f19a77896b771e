"""What an interrupted refinement of a file has done, for the call that goes on with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..engine.stored_intervals import refuse_existing
from .auditing.scoring import Scores
from .unfinished_file import UnfinishedFile

__all__ = ["UnfinishedRefinement"]


class UnfinishedRefinement(UnfinishedFile):
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
        refuse_existing(Path(out))
        super().__init__(Path(out), settings, "refinement")

    @contextmanager
    def begin(self, say: Callable[[str], None]) -> Iterator[Scores]:
        """What is known of each image; see :meth:`claimed`. At the end it is removed."""
        with self.claimed(say) as folder:
            yield Scores(folder / "images")
            self.remove()
