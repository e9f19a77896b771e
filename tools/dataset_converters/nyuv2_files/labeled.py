"""The labeled data set of NYUv2, read one image at a time.

MATLAB writes arrays with the first axis innermost, so HDF5 readers see the axes in reverse order:
``images`` is ``(n, 3, W, H)``, ``depths``, ``labels`` and ``instances`` are ``(n, W, H)``. Cell
arrays of strings are arrays ``(1, n)`` of references to arrays ``(length, 1)`` of character codes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .addresses import NYUv2Error, existing, how_to_get, one_line

__all__ = ["LabeledFile", "Scan"]

_CHUNK_CACHE = 64 << 20  # bytes per array: chunks that hold parts of several images are read once
_DTYPES = {
    "images": ("uint8",),
    "depths": ("float32", "float64"),
    "labels": ("uint16", "uint8"),
    "instances": ("uint8",),
}


class Scan(NamedTuple):
    """One image of NYUv2, with its axes in MATLAB's order reversed, as they are in the file.

    Attributes:
        image: ``(3, W, H)`` uint8 RGB.
        depth: ``(W, H)`` float32, metres.
        labels: ``(W, H)`` uint16 ids of classes; 0 is unlabelled.
        instances: ``(W, H)`` uint8 numbers within a class; 0 is none.
    """

    image: np.ndarray
    depth: np.ndarray
    labels: np.ndarray
    instances: np.ndarray


class LabeledFile:
    """``nyu_depth_v2_labeled.mat``; use it as a context manager.

    Args:
        path: The file, of MATLAB 7.3, which is HDF5.

    Attributes:
        size: Height and width of the images in pixels.
        names: Names of the classes 1, 2, ...
        scenes: Scene of every image, such as ``"bedroom_0080"``.
        scene_types: Type of scene of every image, such as ``"bedroom"``.

    Raises:
        NYUv2Error: The file is missing, truncated, of another version, or has other content.
        ImportError: h5py is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = existing(path, "labeled")
        try:
            import h5py
        except ImportError as error:
            raise ImportError(
                f"h5py is needed to read {self.path}: pip install h5py", name="h5py"
            ) from error
        self._check_version()
        try:
            self._file = h5py.File(self.path, "r", rdcc_nbytes=_CHUNK_CACHE)
        except OSError as error:
            if "truncated" in str(error):
                sizes = re.findall(r"(?:eof|stored_eof) = (\d+)", str(error))
                detail = f" ({sizes[0]} of {sizes[1]} bytes)" if len(sizes) == 2 else ""
                raise NYUv2Error(
                    f"{self.path} is truncated{detail}; download it again: {how_to_get('labeled')}"
                ) from error
            raise NYUv2Error(
                f"{self.path} cannot be opened as HDF5 ({one_line(error)}); {how_to_get('labeled')}"
            ) from error
        try:
            self._check_content()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> LabeledFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Scan:
        """Image ``index``, from 0.

        Raises:
            NYUv2Error: It cannot be read.
        """
        try:
            arrays = [self._file[key][index] for key in ("images", "depths", "labels", "instances")]
        except (OSError, RuntimeError) as error:
            raise NYUv2Error(
                f"{self.path} is damaged: image {index + 1} cannot be read ({one_line(error)}); "
                f"download it again: {how_to_get('labeled')}"
            ) from error
        return Scan(*arrays)

    def _check_version(self) -> None:
        with self.path.open("rb") as file:
            start = file.read(128)
            file.seek(512)
            signatures = start[:8], file.read(8)
        if b"\x89HDF\r\n\x1a\n" in signatures:
            return
        if start.startswith(b"MATLAB 5"):
            raise NYUv2Error(
                f"{self.path} is of MATLAB version 5 ({start[:19].decode('ascii', 'replace')!r}); "
                f"expected version 7.3, which is HDF5; {how_to_get('labeled')}"
            )
        size = self.path.stat().st_size
        raise NYUv2Error(
            f"{self.path} ({size} bytes) is not a MATLAB 7.3 file: it begins with {start[:16]!r}; "
            f"{how_to_get('labeled')}"
        )

    def _check_content(self) -> None:
        file, get = self._file, how_to_get("labeled")
        needed = ("images", "depths", "labels", "instances", "names", "scenes", "sceneTypes")
        missing = [key for key in needed if key not in file]
        if missing:
            found = ", ".join(sorted(key for key in file if not key.startswith("#")))
            raise NYUv2Error(
                f"{self.path} has no {', '.join(missing)}; it has {found or 'nothing'}. Is it the "
                f"labeled data set? {get}"
            )
        shape = file["images"].shape
        if len(shape) != 4 or shape[1] != 3:
            raise NYUv2Error(
                f"{self.path}: images is {shape} in HDF5's order of axes; expected (n, 3, width, "
                f"height); {get}"
            )
        count, _, width, height = shape
        for key, dtypes in _DTYPES.items():
            array = file[key]
            expected = shape if key == "images" else (count, width, height)
            if array.shape != expected or array.dtype not in dtypes:
                raise NYUv2Error(
                    f"{self.path}: {key} is {array.dtype} {array.shape}; expected "
                    f"{' or '.join(dtypes)} {expected}; {get}"
                )
        self.size = height, width
        self.names = self._strings("names")
        self.scenes, self.scene_types = self._strings("scenes"), self._strings("sceneTypes")
        for key, strings in (("scenes", self.scenes), ("sceneTypes", self.scene_types)):
            if len(strings) != count:
                raise NYUv2Error(
                    f"{self.path}: {key} has {len(strings)} entries for {count} images; {get}"
                )

    def _strings(self, key: str) -> list[str]:
        """A cell array of strings."""
        import h5py

        cells = self._file[key]
        if h5py.check_ref_dtype(cells.dtype) is not h5py.Reference:
            raise NYUv2Error(
                f"{self.path}: {key} is {cells.dtype}; expected references to strings, which is "
                f"how MATLAB 7.3 writes a cell array; {how_to_get('labeled')}"
            )
        try:
            return [self._string(reference) for reference in cells[()].ravel()]
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            raise NYUv2Error(
                f"{self.path} is damaged: {key} cannot be read ({one_line(error)}); download it "
                f"again: {how_to_get('labeled')}"
            ) from error

    def _string(self, reference: object) -> str:
        codes = self._file[reference]
        if codes.attrs.get("MATLAB_empty", 0):  # then it holds the size of the empty string
            return ""
        return "".join(map(chr, codes[()].ravel()))
