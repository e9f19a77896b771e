"""The study: many runs, several at a time, then the tables of all that are finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ebm_mmdet.files import fill_section, read_json, write_csv, write_text

from ..processes import in_processes
from ..studies.study_file import StudyFileError
from .methods import METHODS, TASKS
from .records import add_records, matching_records, read_records, run_of
from .report import csv_rows, page_sections, screen_text
from .runs import Run, execute

__all__ = ["plan", "run_all", "run_study"]


def plan(
    tasks: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    changes: Mapping[str, object] | None = None,
) -> list[Run]:
    """The runs of a study, seed by seed, so that an early stop leaves whole tables.

    Raises:
        StudyFileError: a task or method is unknown.
    """
    for kind, names, known in (("task", tasks, TASKS), ("method", methods, METHODS)):
        for name in names:
            if name not in known:
                raise StudyFileError(f"there is no {kind} {name!r}; there are {', '.join(known)}")
    return [
        Run(task, method, seed, dict(changes or {}))
        for seed in seeds
        for task in tasks
        for method in methods
    ]


def run_study(
    tasks: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    changes: Mapping[str, object] | None = None,
    jobs: int = 2,
    page: Path | None = None,
    report_only: bool = False,
    records: Path | None = None,
    say: Callable[[str], None] = print,
) -> list[dict]:
    """Run what is missing, and make the tables of everything finished in ``out``.

    Args:
        tasks: names of tasks.
        methods: names of methods.
        seeds: seeds of each.
        out: folder; a finished run in it is never repeated or changed.
        changes: changes of every config, by dotted key.
        jobs: number of runs at a time, each in a process of its own with one thread.
        page: page whose sections are filled in.
        report_only: run nothing.
        records: file of runs measured before, here or elsewhere, which are not repeated; those of
            this call are added, also when it is interrupted.
        say: receives one line per event.

    Returns:
        All finished results in ``out``, and those of ``records`` with today's recipes.

    Raises:
        FileExistsError: the folder has a run of the same name with other settings; raised before
            anything is run.
        StudyFileError: a task or method is unknown, a record cannot be read, or there is nothing
            to report.
    """
    runs = plan(tasks, methods, seeds, changes)
    known = read_records(records)
    before = matching_records(known, changes, out)
    recorded = {run_of(record) for record in before}
    if not report_only:
        new = [run for run in runs if (run.task, run.method, run.seed) not in recorded]
        if recorded:
            say(f"{len(runs) - len(new)} of {len(runs)} runs are in {records}")
        try:
            run_all(new, out, jobs, say)
        finally:
            if records is not None:
                add_records(records, known, out)
    results = [read_json(path) for path in sorted(out.glob("runs/*/*/*/result.json"))]
    here = {run_of(result) for result in results}
    results += [record for record in before if run_of(record) not in here]
    if not results:
        raise StudyFileError(f"{out} holds no finished run; there is nothing to report")
    write_csv(out / "results.csv", csv_rows(results))
    text = screen_text(results)
    write_text(out / "results.txt", text)
    say(text)
    if page is not None:
        for name, content in page_sections(results).items():
            fill_section(page, name, content)
        say(f"tables written to {page}")
    return results


def run_all(
    runs: Sequence[Run], out: Path, jobs: int, say: Callable[[str], None] = print
) -> list[dict]:
    """Execute runs, ``jobs`` at a time; finished ones are not run again.

    One thread per run makes the numbers independent of ``jobs``.

    Returns:
        The results, in the order in which they were finished.

    Raises:
        FileExistsError: a folder has a run with other settings; raised before anything is run.
    """
    for run in runs:
        run.claim(out)
    missing = [run for run in runs if not (run.folder(out) / "result.json").exists()]
    say(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before; {out}")
    if jobs <= 1 or len(missing) <= 1:
        results = []
        for run in missing:
            results.append(execute(run, out, say))
            say(_finished(results[-1]))
        return results
    start, results = time.monotonic(), []
    for result in in_processes(_execute, [(run, out) for run in missing], jobs):
        results.append(result)
        done = len(results)
        left = (time.monotonic() - start) / done * (len(missing) - done)
        say(f"{_finished(result)}; {done} of {len(missing)}, {left / 60:.0f} min left")
    return results


def _execute(run: Run, out: Path) -> dict:
    return execute(run, out, _silent)


def _silent(line: str) -> None:
    pass


def _finished(result: dict) -> str:
    values = result["values"].get("median") or result["values"]["mean"]
    found = ", ".join(
        f"{name} {values[name]:.3f}" for name in ("mae", "nll") if values.get(name) is not None
    )
    name = f"{result['task']}/{result['method']}/seed{result['seed']}"
    seconds = "" if result["training_s"] is None else f" ({result['training_s']:.0f} s)"
    return f"{name}: {found}{seconds}"
