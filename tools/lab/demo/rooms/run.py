"""Train three rows of the study of ROCK on generated rooms, compare them, draw pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mmdet.utils import register_all_modules
from rich.table import Table

from ebm_mmdet.files import fill_section

from ...processes import cores
from ...studies.detectors import compare_detectors
from ...studies.study import StudySettings
from ...studies.study_file import read_study
from ...studies.tables import detectors_page
from ..whole_run import whole_run
from .pictures import draw_rooms

__all__ = ["run_rooms_demo"]

ROWS = ("SSD", "flat", "ROCK")
ITERATIONS = 1500
"""Of the study's 2000, so that the demo ends within a quarter of an hour on two cores."""
PICTURES = 6
COLUMNS = {"scene/top1": "scene", "depth/abs_rel": "depth", "normals/mean": "normals"}
LEGEND = (
    "scene: share of rooms whose type is the most probable one; depth: mean relative error; "
    "normals: mean angle in degrees; ms: one image. The change against the SSD of every value of "
    "AP, with its bootstrap error, is in results.json."
)


def run_rooms_demo(
    study: Path,
    out: Path,
    num_seeds: int = 1,
    page: Path | None = None,
    overrides: dict | None = None,
    jobs: int | None = None,
) -> Path:
    """Run the whole demo; an interrupted run is continued.

    Args:
        study: the study file of ROCK on generated rooms.
        out: output folder; `folder.choose_folder` describes what happens if it exists.
        num_seeds: number of trainings of each row.
        page: page in which the table of this demo is filled in.
        overrides: dotted options for every config, after the demo's own.
        jobs: trainings at a time, each in a process of one thread; by default one per core. With 1,
            all run in this process.

    Returns:
        The folder with ``results.json``, ``pictures/``, the checkpoints and ``console.log``. With a
        page, that of a finished run with the same settings in ``out``, from which the page is
        filled in.

    Raises:
        ValueError: a page is given, but this run is not the published one.
    """
    if page is not None and (num_seeds == 1 or overrides):
        raise ValueError(
            f"the table of {page} shows the spread over several seeds of the unchanged demo, but "
            f"this run has {num_seeds} seed(s) and overrides {overrides}; leave the page out"
        )
    options = {**_own_options(), **(overrides or {})}
    settings = {"seeds": num_seeds, "options": options}

    def make(folder: Path, say: Callable[[str], None]) -> dict:
        register_all_modules()
        read = read_study(study, ROWS, options)
        rooms, rows = StudySettings(seeds=tuple(range(num_seeds))), folder / "rows"
        report = compare_detectors(read.cfgs, read.rows, rows, rooms, say, jobs or cores())
        say("pictures")
        draw_rooms(read.cfgs["ROCK"], rows / "rock" / "seed0", folder / "pictures", PICTURES)
        return report

    def show(report: dict) -> tuple[Table, str]:
        return _screen_table(report), LEGEND

    return whole_run(out, settings, make, show, page, partial(_fill_page, num_seeds))


def _fill_page(num_seeds: int, page: Path, report: dict) -> None:
    command = f"`make demo-rooms SEEDS={num_seeds}`"
    fill_section(page, "demo-rooms", f"{command}\n\n{detectors_page(report)}")


def _own_options() -> dict:
    """Options of the demo: fewer iterations, and no further processes, since all cores are busy."""
    return {
        "train_cfg.max_iters": ITERATIONS,
        "train_cfg.val_interval": ITERATIONS,
        "param_scheduler.1.end": ITERATIONS,
        "param_scheduler.1.T_max": ITERATIONS - 100,
        "train_dataloader.num_workers": 0,
        "train_dataloader.persistent_workers": False,
    }


def _screen_table(report: dict) -> Table:
    seeds = len(report["settings"]["seeds"])
    title = f"{report['images']} rooms" + (f", mean of {seeds} seeds" if seeds > 1 else "")
    table = Table(title=title)
    table.add_column("")
    for header in ("AP", "AP50", "AP75", *COLUMNS.values(), "ms", "trained, s"):
        table.add_column(header, justify="right")
    for row in report["rows"]:
        cells = [f"{row[name]:.1f}" for name in ("AP", "AP50", "AP75")]
        for name in COLUMNS:
            mean, _ = row["auxiliary"].get(name, (None, None))
            cells.append("" if mean is None else f"{mean:.2f}")
        cells += [f"{row['ms_per_image']:.0f}", f"{row['training_s']:.0f}"]
        table.add_row(row["method"], *cells)
    return table
