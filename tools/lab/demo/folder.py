"""The output folder: an interrupted run continues, a finished one is never changed."""

from __future__ import annotations

from pathlib import Path

from ebm_mmdet.files import read_json, write_json

SETTINGS = "settings.json"
RESULTS = "results.json"


def finished_results(folder: Path, settings: dict) -> list | dict | None:
    """The results of a finished run with these settings in this very folder, or None."""
    if read_json(folder / SETTINGS) != settings:
        return None
    return read_json(folder / RESULTS)


def choose_folder(wanted: Path, settings: dict) -> tuple[Path, str | None]:
    """Return the folder to work in, and a sentence for the screen if there is something to say.

    It is ``wanted`` itself if that is new or empty, or if it has an unfinished run with the same
    settings, which is then continued; otherwise the first such of ``wanted-2``, ``wanted-3``, ...

    Args:
        wanted: Folder that the user chose.
        settings: Everything that a run depends on; JSON types.
    """
    folder, number = wanted, 1
    while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        unfinished = folder.is_dir() and not (folder / RESULTS).exists()
        if unfinished and read_json(folder / SETTINGS) == settings:
            return folder, f"going on with the unfinished run in {folder}"
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    write_json(folder / SETTINGS, settings)
    if number == 1:
        return folder, None
    return folder, f"{wanted} holds another run, which is kept; this one goes to {folder}"
