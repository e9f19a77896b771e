"""The archive of surface normals of NYUv2."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from .addresses import NYUv2Error, existing, how_to_get, one_line

__all__ = ["NormalsArchive"]

_KINDS = {"normals": "normals", "masks": "normals_mask"}
"""Folders of the archive, and those that they become."""


class NormalsArchive:
    """Surface normals and their masks: ``normals_gt.tgz``, or the folder in it.

    Both have PNG files in the folders ``normals`` and ``masks``, in the order of the images.

    Args:
        path: The archive, compressed or not, or an unpacked folder, or a folder around that.
        count: Number of images.

    Raises:
        NYUv2Error: It is missing, truncated, or has not this number of files.
    """

    def __init__(self, path: str | Path, count: int) -> None:
        self.path = existing(path, "normals")
        members = [name for name, _ in self._walk(read=False)]
        self._places: dict[str, tuple[str, int]] = {}
        for folder, kind in _KINDS.items():
            files = sorted(
                (name for name in members if PurePosixPath(name).parent.name == folder),
                key=lambda name: PurePosixPath(name).name,
            )
            if len(files) != count:
                raise NYUv2Error(
                    f"{self.path} has {len(files)} files {folder}/*.png; expected one for each of "
                    f"the {count} images; {how_to_get('normals')}"
                )
            self._places.update({name: (kind, index) for index, name in enumerate(files)})

    def __iter__(self) -> Iterator[tuple[str, int, bytes]]:
        """Yield ``"normals"`` or ``"normals_mask"``, the index of the image, and the file.

        The order is that of the archive, which is read from the beginning to the end.

        Raises:
            NYUv2Error: It cannot be read.
        """
        for name, content in self._walk(read=True):
            if name in self._places:
                yield (*self._places[name], content)

    def __len__(self) -> int:
        return len(self._places)

    def _walk(self, read: bool) -> Iterator[tuple[str, bytes]]:
        """Names of all PNG files, and their content if it is to be read."""
        if self.path.is_dir():
            for file in sorted(self.path.rglob("*.png")):
                if not file.name.startswith("."):
                    name = file.relative_to(self.path.parent).as_posix()
                    yield name, file.read_bytes() if read else b""
            return
        try:
            with tarfile.open(self.path, "r|*") as archive:
                for member in archive:
                    name = PurePosixPath(member.name)
                    # macOS adds files ._0000.png.
                    if member.isfile() and name.suffix == ".png" and not name.name.startswith("."):
                        yield member.name, archive.extractfile(member).read() if read else b""
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise NYUv2Error(
                f"{self.path} is truncated or not a tar archive ({one_line(error)}); "
                f"{how_to_get('normals')}"
            ) from error
