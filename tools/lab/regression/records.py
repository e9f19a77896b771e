"""Values of finished runs in one file, so that a study can be continued on another machine.

The file has one line of JSON per run, sorted by task, method and seed: the content of
``result.json`` (:func:`.runs.execute`) and ``recipe``, the hash of the run's config. Values count
only for a run with the same recipe, so a changed config is measured again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ebm_mmdet.files import read_json, write_text

from ..studies.study import hash_recipe
from ..studies.study_file import StudyFileError
from .runs import Run

__all__ = ["add_records", "matching_records", "read_records", "run_of"]


def read_records(path: Path | None) -> list[dict]:
    """All records of a file; none if there is no file.

    Raises:
        StudyFileError: a line is not a record.
    """
    if path is None or not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
            record["task"], record["method"], record["seed"], record["recipe"], record["values"]
        except (ValueError, KeyError, TypeError) as error:
            raise StudyFileError(
                f"{path}, line {number} is not the record of a run ({error!r}); repair or remove it"
            ) from error
        records.append(record)
    return records


def matching_records(records: Sequence[dict], changes: dict | None, out: Path) -> list[dict]:
    """Those whose recipe is that of their run today, with these changes of the config."""
    recipes: dict[tuple[str, str], str] = {}
    found = []
    for record in records:
        task, method = record["task"], record["method"]
        if (task, method) not in recipes:
            recipes[task, method] = _recipe(Run(task, method, 0, dict(changes or {})), out)
        if recipes[task, method] == record["recipe"]:
            found.append(record)
    return found


def add_records(path: Path, records: Sequence[dict], out: Path) -> None:
    """Write records and those of the finished runs in ``out``; of the same run, the latter."""
    merged = {_key(record): record for record in records}
    for result in sorted(out.glob("runs/*/*/*/result.json")):
        settings = read_json(result.parent / "settings.json")
        record = {**read_json(result), "recipe": settings["recipe"]}
        merged[_key(record)] = record
    lines = [json.dumps(merged[key], sort_keys=True) for key in sorted(merged)]
    write_text(path, "".join(f"{line}\n" for line in lines))


def run_of(record: dict) -> tuple[str, str, int]:
    """Task, method and seed of a record or of a run's result."""
    return record["task"], record["method"], record["seed"]


def _key(record: dict) -> tuple:
    return *run_of(record), record["recipe"]


def _recipe(run: Run, out: Path) -> str:
    try:
        return hash_recipe(run.config(out))
    except (KeyError, FileNotFoundError):
        return ""  # a method that there is no more
