"""What an interrupted tuning knows: the AP of each setting that it has compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ...files import read_json, write_json
from .clock import Clock

__all__ = ["Compared"]


class Compared:
    """AP of settings on the images to tune on, in a file that has each as soon as it is known.

    It belongs to the heads and data of the fit in whose folder it is.

    Args:
        path: the file, which is read if it is there; without one nothing is kept.
        clock: clock of the fit, saved together with it.

    Raises:
        ValueError: the file is there, but cannot be read.
    """

    def __init__(self, path: Path | None = None, clock: Clock | None = None) -> None:
        self._path, self._clock = path, clock
        stored = (path and read_json(path)) or dict(images=None, settings=[])
        self.images: int | None = stored["images"]
        """Number of images that settings are compared on; None before :meth:`begin`."""
        self._ap = {_key(setting): ap for setting, ap in stored["settings"]}

    def begin(self, images: int) -> None:
        """Note the number of images; that of the call that was interrupted, if there was one."""
        if self.images is None:
            self.images = images
            self._save()

    def get(self, setting: Mapping) -> float | None:
        """AP of a setting, or None if it is not known."""
        return self._ap.get(_key(setting))

    def add(self, setting: Mapping, ap: float) -> None:
        """Keep the AP of a setting, which consists of plain values."""
        self._ap[_key(setting)] = ap
        self._save()

    def _save(self) -> None:
        if self._path is not None:
            settings = [[json.loads(key), ap] for key, ap in self._ap.items()]
            write_json(self._path, dict(images=self.images, settings=settings))
        if self._clock is not None:
            self._clock.save()


def _key(setting: Mapping) -> str:
    return json.dumps(setting, sort_keys=True)
