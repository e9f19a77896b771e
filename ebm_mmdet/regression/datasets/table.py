"""Read a table of images and targets from CSV or JSON; an error names the file and the row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .target_space import TargetError

__all__ = ["Row", "read_table"]


@dataclass
class Row:
    """One image of a table."""

    place: str
    """Where the row is: file and line or entry."""
    img_path: str
    target: np.ndarray | None
    """``(D,)`` float64; None if it is empty."""
    group: str | None


def read_table(
    path: str,
    names: Sequence[str],
    img_column: str,
    group_column: str | None,
    target_columns: Sequence[str] | None,
) -> list[Row]:
    """Read the rows of a table.

    CSV has a header, and commas, semicolons or tabs between its columns. JSON is a list of objects,
    or mmengine's ``{"metainfo": ..., "data_list": [...]}``; the metainfo of the file is not used.

    The D target columns are `target_columns`; if None, those called `names`, or else ``target``
    (in JSON a number or a list of D of them), or ``target_0``, ``target_1``, ...

    Args:
        path: file ending in .csv, .tsv, .txt or .json.
        names: names of the D coordinates.
        img_column: column of the image's path.
        group_column: column of the group's name, if there is such a column.
        target_columns: see above.

    Returns:
        One row for each image, at least one.

    Raises:
        FileNotFoundError: there is no such file.
        TargetError: the file is not as described; it names the row.
    """
    content = _read_text(path)
    if path.lower().endswith(".json"):
        entries, places = _json_entries(content, path)
    else:
        entries, places = _csv_entries(content, path)
    if not entries:
        raise TargetError(f"{path} has no rows: there is nothing to train on or to test with")
    columns = list(dict.fromkeys(key for entry in entries for key in entry))
    if img_column not in columns:
        raise TargetError(
            f"{path} has no column {img_column!r} for the path of the image; it has "
            f"{', '.join(map(repr, columns))}. Rename it, or set img_column"
        )
    read = _target_reader(columns, names, target_columns, path)
    rows = []
    for entry, place in zip(entries, places):
        image = entry.get(img_column)
        if not isinstance(image, str) or not image:
            raise TargetError(f"{place}: {img_column!r} is {image!r}; expected a path")
        group = entry.get(group_column) if group_column else None
        group = None if group in (None, "") else str(group)
        rows.append(Row(place, image, read(entry, place), group))
    return rows


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # spreadsheets write such a mark
    except FileNotFoundError:
        raise FileNotFoundError(f"the table {path} (ann_file) does not exist") from None
    except IsADirectoryError:
        raise TargetError(f"{path} is a folder; ann_file is a table in CSV or JSON") from None
    except UnicodeDecodeError as error:
        raise TargetError(f"{path} is not text in UTF-8: {error}; save it as UTF-8") from None


def _json_entries(content: str, path: str) -> tuple[list[dict], list[str]]:
    try:
        loaded = json.loads(content)
    except ValueError as error:
        raise TargetError(f"{path} is not valid JSON: {error}") from None
    entries = loaded.get("data_list") if isinstance(loaded, dict) else loaded
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise TargetError(
            f"{path} is neither a list of objects nor an object with such a list as 'data_list'"
        )
    return entries, [f"{path}, entry {i}" for i in range(len(entries))]


def _csv_entries(content: str, path: str) -> tuple[list[dict], list[str]]:
    header = content.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
    columns: list[str] | None = None
    entries, places = [], []
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue  # an empty line
            if columns is None:
                columns = [field.strip() for field in fields]
                if len(set(columns)) != len(columns):
                    raise TargetError(f"{path}: two columns have the same name: {columns}")
                continue
            place = f"{path}, line {reader.line_num}"
            if len(fields) != len(columns):
                raise TargetError(
                    f"{place} has {len(fields)} fields, but the header has {len(columns)}; a path "
                    f"that contains {delimiter!r} needs quotes"
                )
            entries.append(dict(zip(columns, fields)))
            places.append(place)
    except csv.Error as error:
        raise TargetError(f"{path}, line {reader.line_num}: {error}") from None
    return entries, places


def _target_reader(
    columns: Sequence[str],
    names: Sequence[str],
    wanted: Sequence[str] | None,
    path: str,
) -> Callable[[dict, str], np.ndarray | None]:
    """Return ``(entry, place) -> target``."""
    dim = len(names)
    numbered = [f"target_{d}" for d in range(dim)]
    choices = [list(wanted)] if wanted is not None else [list(names), ["target"], numbered]
    for choice in choices:
        if all(column in columns for column in choice):
            found = choice
            break
    else:
        raise TargetError(
            f"{path} has no columns {' nor '.join(map(str, choices))} for the {dim} numbers of the "
            f"target; it has {', '.join(map(repr, columns))}. Rename them, or set target_columns"
        )

    def read(entry: dict, place: str) -> np.ndarray | None:
        values: list[Any] = [entry.get(column) for column in found]
        if len(found) == 1 and isinstance(values[0], list):
            values = values[0]
        if all(value is None or (isinstance(value, str) and not value.strip()) for value in values):
            return None
        if len(values) != dim:
            raise TargetError(f"{place}: the target has {len(values)} numbers; expected {dim}")
        numbers = []
        for value in values:
            try:
                if isinstance(value, bool):
                    raise TypeError
                numbers.append(float(value))
            except (TypeError, ValueError):
                raise TargetError(
                    f"{place}: {value!r} in {found} is not a number; a decimal point is needed, "
                    "not a comma"
                ) from None
        return np.array(numbers)

    return read
