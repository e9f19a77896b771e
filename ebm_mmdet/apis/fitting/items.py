"""Reads items of a user's data set; what cannot be read is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

__all__ = ["read_item", "refuse_absent_files"]


def read_item(dataset, index: int, key: Callable[[Mapping], str]) -> dict:
    """``dataset[index]``, an item of the data set's pipeline.

    Args:
        dataset: the data set.
        index: of the item.
        key: from ``dataset.get_data_info(index)`` to the item's name, for the message.

    Raises:
        ValueError: the pipeline raises something, such as for a broken image.
    """
    try:
        return dataset[index]
    except Exception as error:  # whatever a pipeline raises
        raise ValueError(
            f"{key(dataset.get_data_info(index))} cannot be read by the data set's pipeline "
            f"({type(error).__name__}: {error}); repair it, and the same command goes on"
        ) from error


def refuse_absent_files(keys: Sequence[str], noun: str, part: str) -> None:
    """Raise if some items of a data set are files that are there, and others are not.

    Where none is, the data set does not read files of this machine, or its folder is wrong: then
    the first item that is read says so.

    Args:
        keys: of the items; paths, if these are files.
        noun: what an item is, for the message.
        part: of the data, for the message.

    Raises:
        FileNotFoundError: the message has the first file that is absent.
    """
    files = list(dict.fromkeys(keys))
    absent = [name for name in files if not os.path.isfile(name)]
    if 0 < len(absent) < len(files):
        raise FileNotFoundError(
            f"{len(absent)} of the {len(files)} {noun}s of the {part} data are not there, the "
            f"first is {absent[0]}. Get them, or leave them out of the annotation file"
        )
