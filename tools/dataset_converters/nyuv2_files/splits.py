"""The splits of NYUv2."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .addresses import NYUv2Error, existing, how_to_get, one_line

__all__ = ["make_splits", "read_splits", "read_val_scenes"]


def read_splits(path: str | Path, count: int) -> dict[str, list[int]]:
    """The official splits ``train`` and ``test``: numbers of images, from 1, in order.

    Args:
        path: ``splits.mat``, of MATLAB version 5.
        count: Number of images.

    Raises:
        NYUv2Error: The file is not as published, or the splits are not a partition of the images.
    """
    import scipy.io

    path = existing(path, "splits")
    try:
        content = scipy.io.loadmat(path)
    except NotImplementedError as error:
        raise NYUv2Error(
            f"{path} is of MATLAB version 7.3; expected version 5; {how_to_get('splits')}"
        ) from error
    except (OSError, ValueError, TypeError, zlib.error, scipy.io.matlab.MatReadError) as error:
        raise NYUv2Error(
            f"{path} is truncated or not a MATLAB file ({one_line(error)}); {how_to_get('splits')}"
        ) from error
    missing = [key for key in ("trainNdxs", "testNdxs") if key not in content]
    if missing:
        found = ", ".join(key for key in content if not key.startswith("__"))
        raise NYUv2Error(
            f"{path} has no {' and no '.join(missing)}; it has {found or 'nothing'}; "
            f"{how_to_get('splits')}"
        )
    splits = {
        split: sorted(content[f"{split}Ndxs"].astype(np.int64).ravel().tolist())
        for split in ("train", "test")
    }
    if sorted(splits["train"] + splits["test"]) != list(range(1, count + 1)):
        raise NYUv2Error(
            f"{path}: {len(splits['train'])} and {len(splits['test'])} indices; expected each of "
            f"the {count} images, counted from 1, in one of the two splits. Do splits.mat and the "
            f"labeled data set belong together? {how_to_get('splits')}"
        )
    return splits


def read_val_scenes(path: str | Path) -> list[str]:
    """Scenes of the validation split, one a line.

    Raises:
        NYUv2Error: The file is missing, empty, or not text.
    """
    path = existing(path, "val_split")
    try:
        scenes = path.read_text(encoding="utf-8").split()
    except ValueError as error:
        raise NYUv2Error(f"{path} is not a text file; {how_to_get('val_split')}") from error
    if not scenes:
        raise NYUv2Error(f"{path} is empty; expected one scene a line; {how_to_get('val_split')}")
    return scenes


def make_splits(
    official: dict[str, list[int]],
    scenes: Sequence[str],
    val_scenes: Sequence[str] | None = None,
) -> dict[str, list[int]]:
    """The splits that annotation files are written for.

    ``trainval`` and ``test`` are the official two. With ``val_scenes``, ``trainval`` is also
    divided by scene into ``val`` and ``train``.

    Args:
        official: ``train`` and ``test``, numbers of images from 1.
        scenes: Scene of every image.
        val_scenes: Scenes of ``val``.

    Raises:
        NYUv2Error: A scene has no image in the official training split, or all images are in it.
    """
    splits = {"trainval": official["train"], "test": official["test"]}
    if val_scenes is None:
        return splits
    wanted = set(val_scenes)
    for split, numbers in official.items():
        present = {scenes[number - 1] for number in numbers}
        wrong = sorted(wanted - present if split == "train" else wanted & present)
        if wrong:
            where = "of the official test split" if split == "test" else "not of the train split"
            raise NYUv2Error(
                f"{len(wrong)} of the {len(wanted)} scenes for validation are {where}, the first "
                f"is {wrong[0]!r}; expected scenes of the official train split, such as "
                f"{scenes[official['train'][0] - 1]!r}; {how_to_get('val_split')}"
            )
    splits["train"] = [n for n in official["train"] if scenes[n - 1] not in wanted]
    splits["val"] = [n for n in official["train"] if scenes[n - 1] in wanted]
    if not splits["train"]:
        raise NYUv2Error("the scenes for validation are all scenes: none is left to train on")
    return splits
