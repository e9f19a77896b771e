"""Images and labels in one h5 or npz file, read image by image where the format allows it."""

from __future__ import annotations

import os
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ArrayFile", "ArrayFileError"]


class ArrayFileError(ValueError):
    """A file of arrays is missing, broken or not as expected; one line says what to do."""


class ArrayFile:
    """Labels and images of a file ``.h5``, ``.hdf5`` or ``.npz``.

    h5 files are opened once per process, because an open one must not be shared with forked
    workers, and images are read one at a time. npz files are compressed as a whole, so their images
    are read into memory when the first one is asked for; forked workers share them if the parent
    has done so. Copies and pickles open the file anew.

    Args:
        path: the file.
        images_key: name of the images, ``(N, ...)``.
        labels_key: name of the labels, ``(N,)`` or ``(N, D)``.
        hint: where to get the file, for messages.

    Raises:
        ArrayFileError: the file is missing, broken, of another format, or lacks a key.
        ImportError: h5py is needed and not installed.
    """

    def __init__(self, path: str, images_key: str, labels_key: str, hint: str = "") -> None:
        self.path = str(path)
        self.keys = (images_key, labels_key)
        self.hint = f" {hint}" if hint else ""
        self.is_h5 = Path(path).suffix.lower() in (".h5", ".hdf5")
        if not self.is_h5 and Path(path).suffix.lower() != ".npz":
            raise ArrayFileError(f"{path}: expected a file ending in .h5, .hdf5 or .npz")
        try:
            with open(self.path, "rb"):
                pass
        except FileNotFoundError:
            raise ArrayFileError(
                f"{path} does not exist. It holds {images_key!r} and {labels_key!r}.{self.hint}"
            ) from None
        except OSError as error:
            raise ArrayFileError(f"{path} cannot be opened: {error.strerror}.") from None
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._open: Any = None
        self._process = -1

    def __getstate__(self) -> dict:
        private = ("_lock", "_open", "_process")
        return {key: value for key, value in self.__dict__.items() if key not in private}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._reset()

    def _broken(self, error: Exception | str) -> ArrayFileError:
        return ArrayFileError(
            f"{self.path} is broken, perhaps because a download was not completed: {error}."
            f"{self.hint}"
        )

    def _missing_key(self, key: str, there: list[str]) -> ArrayFileError:
        return ArrayFileError(
            f"{self.path} has no {key!r}; it has {', '.join(map(repr, there))}. Set images_key "
            f"and labels_key.{self.hint}"
        )

    def _h5(self, key: str) -> Any:
        """Return a data set of the h5 file of this process."""
        try:
            import h5py
        except ImportError as error:
            raise ImportError(f"{self.path} needs h5py: `pip install h5py`") from error
        if self._process != os.getpid():
            try:
                self._open = h5py.File(self.path, "r")
            except OSError as error:
                raise self._broken(error) from None
            self._process = os.getpid()
        if key not in self._open:
            raise self._missing_key(key, list(self._open))
        return self._open[key]

    def _npz(self, key: str) -> np.ndarray:
        try:
            with np.load(self.path, allow_pickle=False) as content:
                if key not in content:
                    raise self._missing_key(key, list(content))
                return content[key]
        except (OSError, zipfile.BadZipFile, EOFError) as error:
            raise self._broken(error) from None
        except ArrayFileError:
            raise
        except ValueError as error:  # pickled objects, among others
            raise self._broken(error) from None

    def labels(self) -> np.ndarray:
        """Return all labels ``(N, D)`` float64, and check that there are as many images."""
        images_key, labels_key = self.keys
        if self.is_h5:
            with self._lock:
                labels, count = np.array(self._h5(labels_key)), len(self._h5(images_key))
        else:
            labels, count = self._npz(labels_key), len(self._images())
        try:
            labels = np.asarray(labels, np.float64).reshape(len(labels), -1)
        except (TypeError, ValueError):
            raise ArrayFileError(
                f"{self.path}: {labels_key!r} does not hold numbers but {labels.dtype}"
            ) from None
        if len(labels) != count or not count:
            raise ArrayFileError(
                f"{self.path}: {len(labels)} labels in {labels_key!r} and {count} images in "
                f"{images_key!r}; expected as many of both, and at least one.{self.hint}"
            )
        return labels

    def _images(self) -> np.ndarray:
        if self._open is None:
            self._open = self._npz(self.keys[0])
        return self._open

    def image(self, number: int) -> np.ndarray:
        """Return one image as it is in the file."""
        with self._lock:
            if not self.is_h5:
                return self._images()[number]
            try:
                return self._h5(self.keys[0])[number]
            except OSError as error:
                raise self._broken(f"image {number}: {error}") from None
