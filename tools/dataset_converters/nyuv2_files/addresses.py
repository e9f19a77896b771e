"""Where the files of NYUv2 are, and the error for files that are not as published."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ADDRESSES", "NYUv2Error", "existing", "how_to_get", "one_line"]

ADDRESSES = {
    "labeled": "http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat",
    "splits": "http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat",
    "normals": "https://cs.nyu.edu/~deigen/dnl/normals_gt.tgz",
    "val_split": "https://github.com/vita-epfl/rock-pytorch/releases/download/v0.1/val_split.txt",
}


class NYUv2Error(ValueError):
    """A file or folder is not as expected; the message is one line with file and remedy."""


def how_to_get(kind: str) -> str:
    """The end of a message about a file of `ADDRESSES`."""
    text = f"it can be had from {ADDRESSES[kind]} (where that host fails, look for a mirror)"
    return f"{text}; without it, leave out --normals" if kind == "normals" else text


def existing(path: str | Path, kind: str) -> Path:
    """The path of a source file.

    Raises:
        NYUv2Error: It does not exist, or it is a folder and no normals.
    """
    path = Path(path)
    if not path.exists():
        raise NYUv2Error(f"{path} does not exist; {how_to_get(kind)}")
    if path.is_dir() and kind != "normals":
        raise NYUv2Error(f"{path} is a folder; expected a file; {how_to_get(kind)}")
    return path


def one_line(error: BaseException) -> str:
    """The message of an error, short and without line breaks."""
    return " ".join(str(error).split())[:160] or type(error).__name__
